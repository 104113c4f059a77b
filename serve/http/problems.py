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
MAX_ERRORS_SHOWN = 10  # of the things that are wrong with one request


class Problem(Exception):
    """A request that is answered with an error. detail: a sentence for whoever asked."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, errors: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.errors = status, detail, dict(headers or {}), errors

    def response(self) -> Response:
        """The answer."""
        body = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.detail}
        return Response(
            orjson.dumps(body | ({"errors": self.errors} if self.errors else {})), self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


HANDLED_ERRORS = (Problem, RequestValidationError, ValidationError, HTTPException, IndexmillError, TimeoutError)


def to_problem(error: Exception) -> Problem:
    """The problem that an exception is for whoever asked."""
    match error:
        case Problem():
            return error
        case InvalidQuery():
            parts = (error.what, error.expected and f"expected {error.expected}", error.got and f"got {error.got}")
            return Problem(422, "; ".join(part for part in parts if part))
        case RequestValidationError() | ValidationError():
            return Problem(422, "the request is not as documented", errors=_list_errors(error))
        case HTTPException():
            return Problem(error.status_code, str(error.detail), headers=error.headers)
        case TimeoutError():
            return Problem(504, "this took longer than a request may take", headers={"Retry-After": "5"})
        case IndexmillError():
            return Problem(503, "the index cannot be asked now", headers={"Retry-After": "5"})
        case _:
            return Problem(500, "this should not have happened; the service's log says more")


def install_error_handlers(app: FastAPI) -> None:
    """Let every error of an app leave it as a problem."""

    async def answer(_: Request, error: Exception) -> Response:
        return to_problem(error).response()

    for kind in (*HANDLED_ERRORS, Exception):
        app.add_exception_handler(kind, answer)


def _list_errors(error: RequestValidationError | ValidationError) -> list[dict[str, Any]]:
    found = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else error.errors()
    return [{"where": ".".join(str(part)[:80] for part in one["loc"]), "detail": str(one["msg"])[:200]} for one in found[:MAX_ERRORS_SHOWN]]
