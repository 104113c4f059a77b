"""The REST API under /v1."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from indexmill.serve.http import schemas
from indexmill.serve.http.problems import Problem
from indexmill.serve.http.requests import read_request
from indexmill.serve.http.responses import describe_index, describe_item, read_report, summarize_index
from indexmill.serve.http.service import Service
from indexmill.serve.thumbnails import thumbnail

RAW_MEDIA_TYPE = "application/octet-stream"
MAX_LABELS = 1000
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; font-src data:"
)


def build_api_router(service: Service) -> APIRouter:
    """All paths of the service but the page's."""
    router = APIRouter(responses=schemas.PROBLEM_RESPONSES)
    _add_index_routes(router, service)
    _add_item_routes(router, service)
    _add_service_routes(router, service)
    return router


def _add_index_routes(router: APIRouter, service: Service) -> None:
    @router.post(
        "/v1/indexes/{name}/search",
        response_model=schemas.SearchResponse,
        responses=schemas.RAW_RESPONSE,
        openapi_extra=schemas.SEARCH_OPENAPI,
    )
    async def search(name: schemas.IndexName, request: Request) -> Response:
        """The nearest items to texts, images, vectors or items of the index."""
        return await answer_search(service, name, request)

    @router.get("/v1/indexes")
    def indexes() -> Response:
        """The indexes that are served, each with its snapshot."""
        return json_response({"indexes": [summarize_index(name, live) for name, live in service.indexes.items()]})

    @router.get("/v1/indexes/{name}")
    def index(name: schemas.IndexName) -> Response:
        """Snapshot, fingerprint, counts and metrics of an index."""
        return json_response(describe_index(service.index(name)))

    @router.get("/v1/indexes/{name}/labels")
    def labels(name: schemas.IndexName) -> Response:
        """The labels with the most items, by name, at most 1,000."""
        return json_response({"labels": service.index(name).items.labels(MAX_LABELS)})

    @router.get("/v1/indexes/{name}/report", response_class=Response, responses=schemas.file_response_schema("text/html"))
    def report(name: schemas.IndexName) -> Response:
        """The snapshot's report, one HTML page."""
        headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-cache"}
        return Response(read_report(service.index(name)), media_type="text/html; charset=utf-8", headers=headers)


def _add_item_routes(router: APIRouter, service: Service) -> None:
    @router.get("/v1/indexes/{name}/items/{item}")
    def item(name: schemas.IndexName, item: schemas.ItemIdPath) -> Response:
        """One item by its id."""
        return json_response(describe_item(service.index(name), item))

    @router.get("/v1/indexes/{name}/items/{item}/thumbnail", response_class=Response, responses=schemas.file_response_schema("image/jpeg"))
    def picture(name: schemas.IndexName, item: schemas.ItemIdPath, request: Request) -> Response:
        """A small JPEG of an item that is an image."""
        index = service.index(name)
        row = index.items.rows([item])[0]
        tag = f'"{row["content_digest"]}"' if row else ""
        headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
        if row and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        content = thumbnail(index.manifest.image_root, row) if row else None
        if content is None:
            raise Problem(404, "there is no picture of this item")
        return Response(content, media_type="image/jpeg", headers=headers)


def _add_service_routes(router: APIRouter, service: Service) -> None:
    @router.get("/healthz")
    async def healthz() -> Response:
        """200 while the service runs."""
        return json_response({"status": "ok"})

    @router.get("/readyz")
    async def readyz() -> Response:
        """200 once every index has a snapshot that answers; else 503."""
        if waiting := [name for name, live in service.indexes.items() if live.index is None]:
            raise Problem(503, f"without a snapshot yet: {', '.join(waiting)}", headers={"Retry-After": "5"})
        return json_response({"status": "ready"})

    @router.get("/metrics", response_class=Response, responses=schemas.file_response_schema("text/plain"))
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def answer_search(service: Service, name: str, request: Request) -> Response:
    """A search, as soon as there is a place for it: in bytes where that is accepted, else in JSON."""
    async with service.admit():
        index = service.index(name)
        asked = await read_request(request, index.manifest.dim, service.limits)
        if request.headers.get("accept", "").startswith(RAW_MEDIA_TYPE):
            return raw(await service.answer(index, asked, raw=True))
        return json_response(await service.answer(index, asked))


def raw(answer: dict[str, Any]) -> Response:
    """An answer as bytes: ids int64 (n, k), then scores float32 (n, k), little-endian; n, k and the snapshot in headers. Id -1: no item."""
    scores, ids = answer["results"]
    headers = {"Indexmill-Shape": f"{ids.shape[0]},{ids.shape[1]}", "Indexmill-Snapshot": answer["snapshot_id"]}
    return Response(ids.astype("<i8").tobytes() + scores.astype("<f4").tobytes(), media_type=RAW_MEDIA_TYPE, headers=headers)


def json_response(value: Any) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), media_type="application/json")
