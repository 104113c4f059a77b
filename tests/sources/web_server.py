"""A web server on 127.0.0.1 whose files a test may change, break, slow down or redirect."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.storage.s3_answers import Answer, ScriptedServer


class WebServer:
    """Serves `files` by path, with ETags. `broken` maps a path to what answers instead of the file."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken: dict[str, Callable[[], Answer | None]] = {}
        self.requests: list[tuple[str, str]] = []  # method and path
        self.sent: Counter[str] = Counter()  # bodies by path
        self.most_at_once = 0
        self._running, self._lock = 0, threading.Lock()
        self._server = ScriptedServer(self._answer)
        self.url = self._server.url
        self.close = self._server.close

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        with self._lock:
            self.requests.append((method, path))
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            if path in self.broken:
                return self.broken[path]()
            if path not in self.files:
                return 404, {}, b""
            etag = f'"{hashlib.sha256(self.files[path]).hexdigest()}"'
            if headers.get("If-None-Match") == etag:
                return 304, {}, b""
            if method == "GET":
                self.sent[path] += 1
            return 200, {"ETag": etag}, self.files[path]
        finally:
            with self._lock:
                self._running -= 1


@contextmanager
def serve() -> Iterator[WebServer]:
    """Run such a server."""
    server = WebServer()
    try:
        yield server
    finally:
        server.close()
