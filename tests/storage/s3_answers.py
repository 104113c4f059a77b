"""A small HTTP server that answers S3 requests from a script: for answers that a healthy server never gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]


class ScriptedServer:
    """Calls `answer(method, path, headers, body)` for each request; None cuts the connection."""

    def __init__(self, answer: Callable[[str, str, dict[str, str], bytes], Answer | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                result = answer(self.command, self.path, dict(self.headers.items()), body)
                if result is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, headers, content = result
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = handle_any  # noqa: N815 (names that http.server looks up)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
