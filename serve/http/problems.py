"""HTTP errors as RFC 9457 problem details (application/problem+json), without paths, file names or code locations."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from indexmill.serve.queries import InvalidQuery
from indexmill.storage.errors import IndexmillError

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS_SHOWN = 10  # per request


class Problem(Exception):
    """An error response, as RFC 9457 calls it. `detail` is a sentence for the client."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, errors: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.errors = status, detail, dict(headers or {}), errors

    def to_response(self) -> Response:
        """Return the HTTP response."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = self.errors
        return Response(orjson.dumps(body), self.status, headers=self.headers, media_type=MEDIA_TYPE)


HANDLED_ERRORS = (Problem, RequestValidationError, ValidationError, HTTPException, IndexmillError, TimeoutError)


def to_problem(error: Exception) -> Problem:
    """Convert an exception to what the client may learn about it."""
    match error:
        case Problem():
            return error
        case InvalidQuery():
            parts = (error.what, error.expected and f"expected {error.expected}", error.got and f"got {error.got}")
            return Problem(422, "; ".join(part for part in parts if part))
        case RequestValidationError() | ValidationError():
            return Problem(422, "the request is invalid", errors=_list_errors(error))
        case HTTPException():
            return Problem(error.status_code, str(error.detail), headers=error.headers)
        case TimeoutError():
            return Problem(504, "the request timed out", headers={"Retry-After": "5"})
        case IndexmillError():
            return Problem(503, "the index is temporarily unavailable", headers={"Retry-After": "5"})
        case _:
            return Problem(500, "internal error; see the log of the service")


def install_error_handlers(app: FastAPI) -> None:
    """Make the app answer every error with a problem document."""

    async def respond(_: Request, error: Exception) -> Response:
        return to_problem(error).to_response()

    for kind in (*HANDLED_ERRORS, Exception):
        app.add_exception_handler(kind, respond)


def _list_errors(error: RequestValidationError | ValidationError) -> list[dict[str, Any]]:
    details = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else error.errors()
    return [
        {"where": ".".join(str(part)[:80] for part in detail["loc"]), "detail": str(detail["msg"])[:200]}
        for detail in details[:MAX_ERRORS_SHOWN]
    ]
