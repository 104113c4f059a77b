"""The page: plain files that come with the package, and nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from indexmill.serve.problems import Problem

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
NAMES = ("index.html", "page.css", "page.js", "asking.js", "icon.svg")


def pages() -> APIRouter:
    """`/` and what the page there is made of."""
    contents = {name: files("indexmill.serve").joinpath("page", name).read_bytes() for name in NAMES}
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _file("index.html", contents["index.html"])

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in contents:
            raise Problem(404, "the page has no such part")
        return _file(name, contents[name])

    return router


def _file(name: str, content: bytes) -> Response:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(content, media_type=TYPES[name.rpartition(".")[2]] + "; charset=utf-8", headers=headers)
