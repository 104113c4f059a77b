"""Download from web addresses that stand in a data set's rows, which anyone may have written.

An address leads only to public hosts, unless the config allows others: the name is resolved here, each of its IP addresses
is checked, and the connection goes to the address that was checked, also after a redirect. So neither a row nor a
redirect nor a name that changes its address reaches the machine's own network.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpcore

from indexmill.storage.errors import SourceUnreachable
from indexmill.tasks.retry import TRANSIENT_STATUS_CODES, RetryPolicy, with_retries

WEB_RETRY = RetryPolicy(attempts=3, timeout_s=20)
MAX_REDIRECTS = 5
MAX_SECONDS_PER_FILE = 300.0  # a server that sends a byte now and then is never silent
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SAFE_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class FetchFailure(Exception):
    """A file was not fetched.

    Attributes:
        reason: The code of the reject: `not_found`, `access_denied`, `address_refused`, `file_too_large` or `unreachable`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Validators(NamedTuple):
    """What a server gave with a file, and is sent with a conditional request for it."""

    etag: str | None = None
    modified: str | None = None


class AddressGuard(httpcore.NetworkBackend):
    """Connects to public addresses, and to the hosts that the config names or allows.

    Args:
        allow_private: Connect to any address.
        trusted: Pairs of host and port that may have a private address.
    """

    def __init__(self, *, allow_private: bool = False, trusted: Iterable[tuple[str, int]] = ()) -> None:
        self._backend = httpcore.SyncBackend()
        self._allow_private, self._trusted = allow_private, frozenset(trusted)

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None, socket_options: Any = None
    ) -> httpcore.NetworkStream:
        """Connect to the first allowed address of a host. Raises FetchFailure if it has none."""
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"no address for {host}: {error.strerror}") from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        if not (self._allow_private or (host, port) in self._trusted):
            addresses = [address for address in addresses if is_public(address)]
        if not addresses:
            raise FetchFailure("address_refused", f"{host} is not on the public internet (dataset.downloads.allow_private)")
        for address in addresses[:-1]:
            try:
                return self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._backend.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> httpcore.NetworkStream:
        """Refuse: no URL names a socket."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._backend.sleep(seconds)


@dataclass
class WebClient:
    """Fetches files over HTTP, from many threads.

    Attributes:
        guard: Where it may connect to.
        max_bytes: The largest file.
        retry_policy: Attempts per file, waits, and the seconds that a connection may stay silent.
    """

    guard: AddressGuard
    max_bytes: int
    retry_policy: RetryPolicy = WEB_RETRY

    def __post_init__(self) -> None:
        self._pool = httpcore.ConnectionPool(network_backend=self.guard, max_keepalive_connections=64, keepalive_expiry=10)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def fetch(self, url: str, target: Path, validators: Validators) -> Validators | None:
        """Download a file, or find out that it is unchanged.

        Args:
            url: The address.
            target: The file to write.
            validators: What the server gave with the file that is here already.

        Returns:
            What the server gives with the file now; None if it is unchanged.

        Raises:
            FetchFailure: The file cannot be fetched, after the last attempt.
        """
        try:
            return with_retries(
                lambda: self._follow(url, target, validators), self.retry_policy, where=redact_query(url), transient_errors=()
            )
        except SourceUnreachable as error:
            raise FetchFailure("unreachable", error.got) from None

    def _follow(self, url: str, target: Path, validators: Validators) -> Validators | None:
        deadline = time.monotonic() + MAX_SECONDS_PER_FILE
        for _ in range(MAX_REDIRECTS + 1):
            result = self._request(url, target, validators, deadline)
            if not isinstance(result, str):
                return result
            try:
                url = urljoin(url, result)
            except ValueError:
                raise FetchFailure("unreachable", "a redirect to what is not a web address") from None
        raise FetchFailure("unreachable", f"more than {MAX_REDIRECTS} redirects")

    def _request(self, url: str, target: Path, validators: Validators, deadline: float) -> Validators | str | None:
        """Make one request. Returns where a redirect leads, or what `fetch` returns."""
        parts = _split(url)
        headers = {"Host": parts.netloc, "User-Agent": "Indexmill", "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}
        headers |= {"If-None-Match": validators.etag} if validators.etag else {}
        headers |= {"If-Modified-Since": validators.modified} if validators.modified else {}
        silent = self.retry_policy.timeout_s
        timeouts = {"connect": min(silent, 10), "read": silent, "write": silent, "pool": MAX_SECONDS_PER_FILE}
        try:
            with self._pool.stream("GET", parts.geturl(), headers=list(headers.items()), extensions={"timeout": timeouts}) as response:
                found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status in REDIRECTS and "location" in found:
                    return found["location"]
                if response.status == HTTPStatus.NOT_MODIFIED and any(validators):
                    return None
                _check_status(response.status, found)
                self._write_body(response, found, target, deadline)
                return Validators(found.get("etag"), found.get("last-modified"))
        except httpcore.TimeoutException:
            raise TimeoutError(f"no answer within {silent:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise ConnectionError(redact_query(str(error)) or type(error).__name__) from None

    def _write_body(self, response: httpcore.Response, headers: dict[str, str], target: Path, deadline: float) -> None:
        length = headers.get("content-length", "")
        self._check_size(int(length) if length.isdigit() else 0)
        size = 0
        with target.open("wb") as file:
            for block in response.iter_stream():
                size += len(block)
                self._check_size(size)
                file.write(block)
                if time.monotonic() > deadline:
                    raise FetchFailure("unreachable", f"not complete after {MAX_SECONDS_PER_FILE:g} s")

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise FetchFailure("file_too_large", f"more than {self.max_bytes:,} bytes (dataset.downloads.max_bytes)")


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet: not private, loopback, link-local, shared, multicast or a form of these."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def redact_query(url: str) -> str:
    """Remove the query of an address, which may be a signature."""
    return url.partition("?")[0]


def _split(url: str) -> SplitResult:
    """Split an address and quote what is not ASCII. Raises FetchFailure for what is no web address, or holds a password."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except (ValueError, UnicodeError):
        raise FetchFailure("not_found", "not a web address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise FetchFailure("not_found", f"not a web address but {parts.scheme or 'no scheme'}://…")
    if "@" in parts.netloc:
        raise FetchFailure("address_refused", "the address holds a user or a password")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    path, query = (quote(part, safe=SAFE_CHARACTERS) for part in (parts.path or "/", parts.query))
    return SplitResult(parts.scheme, netloc, path, query, "")


def _check_status(status: int, headers: dict[str, str]) -> None:
    if status == HTTPStatus.OK:
        return
    text = f"{status} {HTTPStatus(status).phrase}" if status in HTTPStatus._value2member_map_ else str(status)
    if status in TRANSIENT_STATUS_CODES:
        error = ConnectionError(text)
        error.response = SimpleNamespace(status_code=status, headers=headers)  # type: ignore[attr-defined]  # for Retry-After
        raise error
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise FetchFailure("not_found", text)
    is_denied = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS)
    raise FetchFailure("access_denied" if is_denied else "unreachable", text)
