"""A small HTTP server on this machine that counts what it is asked and fails on demand."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

# An HTTP status; the connection cut after half of the body; other bytes of the same number; one byte too few in an answer that says so;
# no answer at all; none of these.
Fault = int | Literal["cut", "garbled", "short", "silent", "pass"]
SILENCE_S = 20


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class FaultyServer:
    """`answer` is a subclass's. requests: the lines `GET /path`, or `GET /path bytes=5-`, so far."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._faults: list[tuple[str, deque[Fault]]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        raise NotImplementedError

    def fail(self, match: str, *faults: Fault) -> None:
        """Let the next requests whose line contains `match` end in these faults, one each."""
        self._faults.append((match, deque(faults)))

    def asked(self, match: str) -> int:
        """How many requests so far had `match` in their line."""
        return sum(match in line for line in self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def note(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for match, faults in self._faults:
                if match in line and faults:
                    return faults.popleft()
        return None


def _part(answer: Answer, asked: str) -> Answer:
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(answer.body)), len(answer.body) - 1)
    return Answer(206, answer.body[start : end + 1], answer.headers | {"Content-Range": f"bytes {start}-{end}/{len(answer.body)}"})


def _spoilt(answer: Answer, fault: Fault | None) -> Answer:
    if fault == "garbled":
        return Answer(answer.status, bytes(byte ^ 1 for byte in answer.body), answer.headers)
    return Answer(answer.status, answer.body[:-1], answer.headers) if fault == "short" else answer


def _handler(standin: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = standin.note(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            if isinstance(fault, int):
                return self._send(Answer(fault, b"no", {"Retry-After": "0"}))
            if fault == "silent":
                time.sleep(SILENCE_S)
                self.close_connection = True
                return None
            answer = standin.answer(self.command, self.path, sent)
            if (asked := self.headers.get("Range")) and answer.status == 200:
                answer = _part(answer, asked)
            return self._send(_spoilt(answer, fault), cut=fault == "cut")

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
            """Say nothing."""

    return Handler
