"""Serve the static files of the search page."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from indexmill.serve.http.problems import Problem

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PAGE_FILES = ("index.html", "page.css", "page.js", "api.js", "icon.svg")


def build_page_router() -> APIRouter:
    """Build the routes of the search page: `/` and the files that it loads."""
    contents = {name: files("indexmill.serve.http").joinpath("page", name).read_bytes() for name in PAGE_FILES}
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def get_page() -> Response:
        return _file_response("index.html", contents["index.html"])

    @router.get("/page/{name}")
    async def get_page_file(name: str) -> Response:
        if name not in contents:
            raise Problem(404, "page file not found")
        return _file_response(name, contents[name])

    return router


def _file_response(name: str, content: bytes) -> Response:
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]] + "; charset=utf-8", headers=headers)
