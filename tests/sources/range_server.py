"""A web server on 127.0.0.1 that sends ranges of files."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class RangeServer:
    """Serves bytes by path, with ETags and ranges, and notes the ranges that were asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        outer, self.files = self, files
        self.ranges: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                content = outer.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                start, end = (int(asked[1]), min(int(asked[2]) + 1, len(content))) if asked else (0, len(content))
                self.send_response(206 if asked else 200)
                self.send_header("ETag", f'"{hash(content)}"')
                self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
                self.send_header("Content-Length", str(end - start))
                if asked:
                    outer.ranges.append(f"{self.path}: {start}-{end}")
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content[start:end])

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
