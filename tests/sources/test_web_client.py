"""Downloads from addresses that anyone may have written: where they may lead, and what each failure is called."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.web_client import AddressGuard, FetchFailure, Validators, WebClient, is_public
from tests.sources.web_server import WebServer, serve

QUICK = RetryPolicy(attempts=3, first_wait_s=0.01, timeout_s=0.5)
NOTHING = Validators()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serve() as server:
        server.files["/a.png"] = b"an image"
        yield server


@pytest.fixture
def client() -> Iterator[WebClient]:
    client = WebClient(AddressGuard(allow_private=True), max_bytes=1000, retry_policy=QUICK)
    yield client
    client.close()


def test_a_file_comes_with_what_a_later_request_depends_on(web: WebServer, client: WebClient, tmp_path: Path) -> None:
    """The second request sends the ETag and brings no content, until the file changes."""
    found = client.fetch(web.url + "/a.png", tmp_path / "a", NOTHING)
    assert found and found.etag
    assert (tmp_path / "a").read_bytes() == b"an image"
    assert client.fetch(web.url + "/a.png", tmp_path / "b", found) is None
    assert not (tmp_path / "b").exists()
    web.files["/a.png"] = b"another"
    assert client.fetch(web.url + "/a.png", tmp_path / "b", found) not in (None, found)
    assert web.sent == {"/a.png": 2}


def test_answers_that_may_go_away_are_repeated(web: WebServer, client: WebClient, tmp_path: Path) -> None:
    """503, a lost connection, a slow and a cut answer are tried three times; the third may succeed."""

    def slow() -> Any:
        threading.Event().wait(0.7)
        return 200, {}, b"late"

    failures: list[Callable[[], Any]] = [
        lambda: (503, {}, b""),
        lambda: None,
        slow,
        lambda: (200, {"Content-Length": "9", "Connection": "close"}, b"cut"),
    ]
    for number, failure in enumerate(failures):
        path, attempts = f"/{number}", [failure, failure, lambda: (200, {}, b"whole")]
        web.broken[path] = lambda attempts=attempts: attempts.pop(0)()
        client.fetch(web.url + path, tmp_path / "file", NOTHING)
        assert (tmp_path / "file").read_bytes() == b"whole"
        web.broken[path] = failure
        with pytest.raises(FetchFailure) as caught:
            client.fetch(web.url + path, tmp_path / "file", NOTHING)
        assert caught.value.reason == "unreachable"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {}, b""), "not_found"),
        ((410, {}, b""), "not_found"),
        ((403, {}, b""), "access_denied"),
        ((418, {}, b""), "unreachable"),
        ((200, {}, b"x" * 1001), "file_too_large"),
        ((302, {"Location": "/loop"}, b""), "unreachable"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "not_found"),
        ((302, {"Location": "http://[broken/"}, b""), "unreachable"),
        ((302, {"Location": "http://user:password@127.0.0.1/"}, b""), "address_refused"),
    ],
)
def test_each_failure_has_a_reason_and_is_final(web: WebServer, client: WebClient, tmp_path: Path, answer: Any, reason: str) -> None:
    """These are not repeated, except the circle of redirects, which ends."""
    web.broken["/loop"] = lambda: answer
    with pytest.raises(FetchFailure) as caught:
        client.fetch(web.url + "/loop", tmp_path / "file", NOTHING)
    assert caught.value.reason == reason
    assert len(web.requests) == (6 if answer[1].get("Location") == "/loop" else 1)
    assert "password" not in str(caught.value).replace("a password", "")


def test_private_addresses_are_refused_directly_by_name_and_after_a_redirect(web: WebServer, tmp_path: Path) -> None:
    """No request reaches the server, in any spelling of its address; a trusted host may not redirect to another one."""
    port = web.url.rpartition(":")[2]
    guarded = WebClient(AddressGuard(), max_bytes=1000, retry_policy=QUICK)
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
        with pytest.raises(FetchFailure) as caught:
            guarded.fetch(f"http://{host}:{port}/a.png", tmp_path / "file", NOTHING)
        assert caught.value.reason == "address_refused", host
    guarded.close()
    assert web.requests == []
    trusting = WebClient(AddressGuard(trusted=[("localhost", int(port))]), max_bytes=1000, retry_policy=QUICK)
    trusting.fetch(f"http://localhost:{port}/a.png", tmp_path / "file", NOTHING)
    web.broken["/away"] = lambda: (302, {"Location": f"http://127.0.0.1:{port}/a.png"}, b"")
    with pytest.raises(FetchFailure, match=r"127\.0\.0\.1 is not on the public internet"):
        trusting.fetch(f"http://localhost:{port}/away", tmp_path / "file", NOTHING)
    trusting.close()
    assert web.requests == [("GET", "/a.png"), ("GET", "/away")]


def test_the_address_that_was_checked_is_the_one_connected_to(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address first and to a private one later is resolved once."""
    port = int(web.url.rpartition(":")[2])
    lookups, connected = [], []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        lookups.append(host)
        address = "93.184.215.14" if len(lookups) == 1 else "127.0.0.1"
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port)),
        ]

    guard = AddressGuard()
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(guard._backend, "connect_tcp", lambda address, *_: connected.append(address) or pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception):
        guard.connect_tcp("rebinding.example", port)
    assert (lookups, connected) == (["rebinding.example"], ["93.184.215.14"])


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
        "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast and unspecified ones, and IPv6 forms that hold such an address."""
    assert not is_public(address)


def test_public_addresses() -> None:
    """Those of the internet."""
    assert all(map(is_public, ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]))


@pytest.mark.parametrize("url", ["no address", "http://", "ftp://host/x", "http://[broken/", "http://host:99999/"])
def test_what_is_no_web_address(client: WebClient, tmp_path: Path, url: str) -> None:
    """It is a reject, not an error of the build."""
    with pytest.raises(FetchFailure) as caught:
        client.fetch(url, tmp_path / "file", NOTHING)
    assert caught.value.reason == "not_found"


def test_names_are_quoted(web: WebServer, client: WebClient, tmp_path: Path) -> None:
    """Spaces and other letters are; what is quoted already stays."""
    web.files |= {"/a%20b/%C3%A4.png?x=1": b"1", "/c%20d": b"2"}
    client.fetch(web.url + "/a b/ä.png?x=1#part", tmp_path / "1", NOTHING)
    client.fetch(web.url + "/c%20d", tmp_path / "2", NOTHING)
    assert (tmp_path / "1").read_bytes() + (tmp_path / "2").read_bytes() == b"12"
