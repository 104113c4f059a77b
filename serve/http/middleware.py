"""Check every request: host, token and body size; add security headers and count requests."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexmill.serve.http.limits import Limits
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.http.problems import Problem

PUBLIC_PATHS = ("/healthz", "/readyz", "/")  # without a token: whether the service is well, and the page that asks for one
PAGE_PREFIX = "/page/"
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]  # fmt: skip


@dataclass
class GuardMiddleware:
    """ASGI middleware. token: what a bearer must have; none where only this machine can ask. hosts: the names it may be asked by.

    Without names, any will do. They keep pages of other origins from reaching a service on 127.0.0.1 through a name of their own.
    """

    app: ASGIApp
    limits: Limits
    metrics: Metrics
    token: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    buffered_bytes: int = field(default=0, init=False)  # bytes of bodies that are in memory now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, observed = time.perf_counter(), {"status": 500, "bytes": 0}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                observed["status"] = message["status"]
                message["headers"] = [*message.get("headers", []), *SECURITY_HEADERS]
            await send(message)

        try:
            self._check_request(scope["path"], {name: value.decode("latin-1") for name, value in scope["headers"]})
            await self.app(scope, self._limit_body(receive, observed), answer)
        except Problem as problem:
            await problem.response()(scope, receive, answer)
        finally:
            self.buffered_bytes -= observed["bytes"]
            self._record_request(scope, observed["status"], time.perf_counter() - start)

    def _check_request(self, path: str, headers: dict[bytes, str]) -> None:
        received = headers.get(b"host", "")
        host = received.rpartition(":")[0] or received
        if self.allowed_hosts and host.strip("[]").lower() not in self.allowed_hosts:
            raise Problem(421, "this service answers for this machine alone, under the names localhost and 127.0.0.1")
        if (
            self.token
            and path not in PUBLIC_PATHS
            and not path.startswith(PAGE_PREFIX)
            and not self._is_authorized(headers.get(b"authorization", ""))
        ):
            raise Problem(401, "a bearer token is needed", headers={"WWW-Authenticate": 'Bearer realm="indexmill"'})
        length = headers.get(b"content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Problem(400, "the length of the body is no number")
        if int(length[:20]) > self.limits.body_bytes:
            raise self._too_long()

    def _is_authorized(self, authorization: str) -> bool:
        scheme, _, received = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(received.strip().encode(), (self.token or "").encode())

    def _limit_body(self, receive: Receive, observed: dict[str, int]) -> Receive:
        """Receive a body piece by piece, until it is too long, or all bodies together are."""

        async def counting() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            observed["bytes"] += size
            self.buffered_bytes += size
            if observed["bytes"] > self.limits.body_bytes:
                raise self._too_long()
            if self.buffered_bytes > self.limits.total_body_bytes:
                raise Problem(429, "too much is being sent at once", headers={"Retry-After": "1"})
            return message

        return counting

    def _too_long(self) -> Problem:
        return Problem(413, f"a body may have {self.limits.body_bytes} bytes at most", headers={"Connection": "close"})

    def _record_request(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
