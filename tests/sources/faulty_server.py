"""A small local HTTP server that records its requests and fails on demand."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

# An HTTP status; the connection cut after half of the body; wrong bytes of the right number; one byte missing, with the
# matching Content-Length; no response at all; no fault.
Fault = int | Literal["cut", "garbled", "short", "silent", "pass"]
SILENCE_S = 600  # far longer than any test may take


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class FaultyServer:
    """A server whose subclass implements `answer`. `requests` has lines such as `GET /path` or `GET /path bytes=5-`."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._faults: list[tuple[str, deque[Fault]]] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        raise NotImplementedError

    def fail(self, match: str, *faults: Fault) -> None:
        """Make the next requests whose line contains `match` fail with these faults, one each."""
        self._faults.append((match, deque(faults)))

    def count_requests(self, match: str) -> int:
        """Return the number of requests whose line contains `match`."""
        return sum(match in line for line in self.requests)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def record_request(self, line: str) -> Fault | None:
        """Record a request line and return the fault for it, if any."""
        with self._lock:
            self.requests.append(line)
            for match, faults in self._faults:
                if match in line and faults:
                    return faults.popleft()
        return None


def _select_range(answer: Answer, range_header: str) -> Answer:
    first, _, last = range_header.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(answer.body)), len(answer.body) - 1)
    return Answer(206, answer.body[start : end + 1], answer.headers | {"Content-Range": f"bytes {start}-{end}/{len(answer.body)}"})


def _spoil(answer: Answer, fault: Fault | None) -> Answer:
    if fault == "garbled":
        return Answer(answer.status, bytes(byte ^ 1 for byte in answer.body), answer.headers)
    return Answer(answer.status, answer.body[:-1], answer.headers) if fault == "short" else answer


def _make_handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = server.record_request(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            if isinstance(fault, int):
                return self._send(Answer(fault, b"no", {"Retry-After": "0"}))
            if fault == "silent":
                server.closing.wait(SILENCE_S)
                self.close_connection = True
                return None
            answer = server.answer(self.command, self.path, body)
            if (range_header := self.headers.get("Range")) and answer.status == 200:
                answer = _select_range(answer, range_header)
            return self._send(_spoil(answer, fault), cut=fault == "cut")

        do_GET = do_HEAD = do_POST = _serve  # noqa: N815

        def _send(self, answer: Answer, *, cut: bool = False) -> None:
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
            self.close_connection = self.close_connection or cut

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    return Handler
