"""A fast path for searches with raw float32 vectors that bypasses FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from indexmill.serve.http.problems import HANDLED_ERRORS, to_problem
from indexmill.serve.http.responses import RAW_MEDIA_TYPE
from indexmill.serve.http.routes import answer_search
from indexmill.serve.http.service import Service

PATH_PREFIX, PATH_SUFFIX = "/v1/indexes/", "/search"
ROUTE = SimpleNamespace(path="/v1/indexes/{name}/search")  # the route label of the metrics, as FastAPI would set it


@dataclass
class RawVectorMiddleware:
    """ASGI middleware that answers searches with raw vectors as `app` would, and passes all else to `app`."""

    app: ASGIApp
    service: Service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request or pass it on."""
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
        except HANDLED_ERRORS as error:
            return to_problem(error).to_response()


def _has_raw_body(scope: Any) -> bool:
    return any(name == b"content-type" and value == RAW_MEDIA_TYPE.encode() for name, value in scope["headers"])
