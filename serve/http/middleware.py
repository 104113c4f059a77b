"""Check every request: host, token and body size; add security headers and count requests."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexmill.serve.http.limits import Limits
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.http.problems import Problem

PUBLIC_PATHS = ("/healthz", "/readyz", "/")  # no token needed: health checks, and the page that asks for the token
PAGE_PREFIX = "/page/"
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]


@dataclass
class GuardMiddleware:
    """ASGI middleware that rejects requests before they reach the app.

    Args:
        app: The app.
        limits: The limits of the service.
        metrics: Where requests are counted.
        token: The bearer token that requests must carry; None if none is needed.
        allowed_hosts: Accepted values of the Host header; any if empty. On loopback this stops DNS rebinding: a web
            page on another origin cannot reach the service through a host name that resolves to 127.0.0.1.
    """

    app: ASGIApp
    limits: Limits
    metrics: Metrics
    token: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    buffered_bytes: int = field(default=0, init=False)  # of all request bodies that are in RAM

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, observed = time.perf_counter(), {"status": 500, "bytes": 0}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                observed["status"] = message["status"]
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
            await send(message)

        try:
            self._check_request(scope["path"], {name: value.decode("latin-1") for name, value in scope["headers"]})
            await self.app(scope, self._limit_body(receive, observed), send_with_headers)
        except Problem as problem:
            await problem.to_response()(scope, receive, send_with_headers)
        finally:
            self.buffered_bytes -= observed["bytes"]
            self._record_request(scope, observed["status"], time.perf_counter() - start)

    def _check_request(self, path: str, headers: dict[bytes, str]) -> None:
        host_header = headers.get(b"host", "")
        host = host_header.rpartition(":")[0] or host_header
        if self.allowed_hosts and host.strip("[]").lower() not in self.allowed_hosts:
            raise Problem(421, "host not allowed; use localhost or 127.0.0.1")
        is_public = path in PUBLIC_PATHS or path.startswith(PAGE_PREFIX)
        if self.token and not is_public and not self._is_authorized(headers.get(b"authorization", "")):
            raise Problem(401, "a bearer token is required", headers={"WWW-Authenticate": 'Bearer realm="indexmill"'})
        length = headers.get(b"content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Problem(400, "the Content-Length header is not a number")
        if int(length[:20]) > self.limits.max_body_bytes:
            raise self._make_too_large_problem()

    def _is_authorized(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), (self.token or "").encode())

    def _limit_body(self, receive: Receive, observed: dict[str, int]) -> Receive:
        """Wrap `receive` so that it raises once this body, or all bodies together, are too large."""

        async def receive_within_limits() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            observed["bytes"] += size
            self.buffered_bytes += size
            if observed["bytes"] > self.limits.max_body_bytes:
                raise self._make_too_large_problem()
            if self.buffered_bytes > self.limits.max_total_body_bytes:
                raise Problem(429, "too much data in flight", headers={"Retry-After": "1"})
            return message

        return receive_within_limits

    def _make_too_large_problem(self) -> Problem:
        detail = f"the request body is larger than {self.limits.max_body_bytes} bytes"
        return Problem(413, detail, headers={"Connection": "close"})

    def _record_request(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
