"""The client of object stores: conditional writes, lost answers, damaged objects, and what each failure says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from indexmill.storage.errors import DamagedFile, InputError, RootUnusable, StoreUnreachable
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.urls import is_object_url, redact
from tests.storage.object_server import SECRET, ObjectServer
from tests.storage.s3_answers import Answer, ScriptedServer


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ObjectClient]]:
    """A client of a server that answers from a function, or one canned answer to everything."""
    servers = []

    def connect(answer: Callable[..., Answer | None] | Answer, patience: float = 2) -> ObjectClient:
        server = ScriptedServer(answer if callable(answer) else lambda *_: answer)
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "writer")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        return ObjectClient("s3://bucket/prefix", patience_seconds=patience)

    yield connect
    for server in servers:
        server.close()


def xml_error(status: int, code: str) -> Answer:
    return status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()


def test_a_large_file_comes_back_and_a_damaged_object_is_refused(bucket_url: str, tmp_path: Path) -> None:
    """20 MB in several parts. An object whose bytes changed under its digest is not accepted."""
    import obstore

    client = ObjectClient(bucket_url)
    content = bytes(range(256)) * 80_000
    (tmp_path / "file").write_bytes(content)
    client.put_file("key", tmp_path / "file")
    assert client.fetch("key", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert not client.fetch("missing", tmp_path / "none")
    obstore.put(client._store, "key", b"other bytes", attributes={"sha256": hashlib.sha256(content).hexdigest()})
    with pytest.raises(DamagedFile, match="not what was uploaded"):
        client.fetch("key", tmp_path / "copy")


def test_a_create_whose_answer_was_lost_counts_as_done(object_server: ObjectServer, scripted: Callable[..., ObjectClient]) -> None:
    """The write reaches the server, its answer is cut off, and the repeated write is refused: the nonce shows whose it was."""
    lost = []

    def forward(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        kept = {name: value for name, value in headers.items() if name.lower() not in ("content-length", "connection", "accept-encoding")}
        response = httpx.request(method, object_server.url + path, headers=kept, content=body)
        if method == "PUT" and not lost:
            lost.append(response.status_code)
            return None
        names = ("etag", "content-type", "last-modified")
        names += tuple(name for name in response.headers if name.startswith("x-amz-meta-"))
        return response.status_code, {name: response.headers[name] for name in names if name in response.headers}, response.content

    client = scripted(forward, patience=20)
    assert client.create("key", b"mine")
    assert lost == [200]
    assert client.create("key", b"mine") is None


def test_a_store_that_ignores_conditions_is_found_out(scripted: Callable[..., ObjectClient]) -> None:
    """Such a server answers 200 to every write."""
    headers = {"ETag": '"1"', "Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}
    client = scripted((200, headers, b"<DeleteResult/>"))
    with pytest.raises(RootUnusable, match="ignores conditional writes"):
        client.check_conditional_writes()


def test_busy_and_cut_answers_are_repeated(scripted: Callable[..., ObjectClient], tmp_path: Path) -> None:
    """Twice 503, once a closed connection, once half a body, then the object, slowly."""
    good = {"ETag": '"1"', "Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT"}
    answers: list[Answer | None] = [xml_error(503, "SlowDown"), xml_error(503, "ServiceUnavailable"), None]
    answers.append((200, {**good, "Content-Length": "5", "Connection": "close"}, b"who"))

    def answer(*_: object) -> Answer | None:
        if not answers:
            time.sleep(1)
        return answers.pop(0) if answers else (200, good, b"whole")

    assert scripted(answer, patience=30).fetch("key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert answers == []


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (xml_error(403, "SignatureDoesNotMatch"), RootUnusable, "refuses the request"),
        (xml_error(403, "AccessDenied"), RootUnusable, "refuses the request"),
        (xml_error(400, "ExpiredToken"), RootUnusable, "have expired"),
        (xml_error(404, "NoSuchBucket"), RootUnusable, "no such bucket"),
        (xml_error(503, "SlowDown"), StoreUnreachable, "does not answer"),
        (None, StoreUnreachable, "does not answer"),
    ],
)
def test_each_failure_says_what_and_where_without_a_secret(
    scripted: Callable[..., ObjectClient], answer: Answer | None, kind: type[Exception], message: str
) -> None:
    """Listing and writing fail alike, and the error ends in exit code 2."""
    client = scripted(answer if answer else lambda *_: None, patience=1)
    for call in (lambda: list(client.list()), lambda: client.put("key", b"")):
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "s3://bucket/prefix" in str(caught.value)
        assert SECRET not in str(caught.value)
        assert caught.value.exit_code == 2  # type: ignore[attr-defined]
        assert caught.value.__cause__ is None


def test_wrong_credentials_and_read_only_ones(object_server: ObjectServer, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server refuses both; reading works with the second."""
    ObjectClient(bucket_url).put("key", b"1")
    for name, value in object_server.environment(reader=True).items():
        monkeypatch.setenv(name, value)
    reader = ObjectClient(bucket_url)
    assert (content := reader.read("key")) and content.data == b"1"
    with pytest.raises(RootUnusable, match="refuses the request"):
        reader.put("key", b"2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(RootUnusable, match="SignatureDoesNotMatch"):
        ObjectClient(bucket_url).put("key", b"2")


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://key:secret@bucket/x?signature=abc", "gs://bucket?token=abc"])
def test_a_wrong_url_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(InputError) as caught:
        ObjectClient(url)
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_only_urls_are_object_stores() -> None:
    assert is_object_url("s3://bucket/x")
    assert not is_object_url("/data/s3")
    assert not is_object_url("s3")
    assert not is_object_url("https://host/x")
    assert redact("https://user:pw@host/x?sig=1 failed") == "https://***@host/x?*** failed"
