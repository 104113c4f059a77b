"""A fast path for searches with raw float32 vectors that bypasses FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from indexmill.serve.http.problems import HANDLED_ERRORS, to_problem
from indexmill.serve.http.routes import RAW_MEDIA_TYPE, answer_search
from indexmill.serve.http.service import Service

PATH_PREFIX, PATH_SUFFIX = "/v1/indexes/", "/search"
ROUTE = SimpleNamespace(path="/v1/indexes/{name}/search")  # what the metrics call it


@dataclass
class RawVectorMiddleware:
    """ASGI middleware: a search of a served index by vectors in bytes is answered here, as `app` would answer it, and all else by `app`."""

    app: ASGIApp
    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "POST" else ""
        name = path[len(PATH_PREFIX) : -len(PATH_SUFFIX)] if path.startswith(PATH_PREFIX) and path.endswith(PATH_SUFFIX) else ""
        if name not in self.service.indexes or not _has_raw_body(scope):
            await self.app(scope, receive, send)
            return
        scope["route"] = ROUTE
        response = await self._answer(name, Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, name: str, request: Request) -> Response:
        try:
            return await answer_search(self.service, name, request)
        except HANDLED_ERRORS as problem:
            return to_problem(problem).response()


def _has_raw_body(scope: Any) -> bool:
    return any(name == b"content-type" and value == RAW_MEDIA_TYPE.encode() for name, value in scope["headers"])
