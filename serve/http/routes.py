"""The REST API under /v1."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from indexmill.serve.http import schemas
from indexmill.serve.http.problems import Problem
from indexmill.serve.http.requests import read_request
from indexmill.serve.http.responses import (
    RAW_MEDIA_TYPE,
    describe_index,
    describe_item,
    json_response,
    raw_response,
    read_report,
    summarize_index,
)
from indexmill.serve.http.service import Service
from indexmill.serve.thumbnails import make_thumbnail

MAX_LABELS = 1000
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; font-src data:"
)
HTML_REPORT = schemas.file_response_schema("text/html", "The report.")
JPEG_THUMBNAIL = schemas.file_response_schema("image/jpeg", "The thumbnail.")
PROMETHEUS_METRICS = schemas.file_response_schema("text/plain", "Metrics in Prometheus's text format.")


def build_api_router(service: Service) -> APIRouter:
    """Build all routes but those of the search page."""
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
        """Find the nearest items to texts, images, vectors or indexed items."""
        return await answer_search(service, name, request)

    @router.get("/v1/indexes")
    def list_indexes() -> Response:
        """List the indexes being served, each with its snapshot."""
        return json_response({"indexes": [summarize_index(name, live) for name, live in service.indexes.items()]})

    @router.get("/v1/indexes/{name}")
    def get_index(name: schemas.IndexName) -> Response:
        """Get the snapshot, fingerprint, counts and metrics of an index."""
        return json_response(describe_index(service.get_index(name)))

    @router.get("/v1/indexes/{name}/labels")
    def list_labels(name: schemas.IndexName) -> Response:
        """List the labels with the most items, up to 1,000, in alphabetical order."""
        return json_response({"labels": service.get_index(name).items.list_top_labels(MAX_LABELS)})

    @router.get("/v1/indexes/{name}/report", response_class=Response, responses=HTML_REPORT)
    def get_report(name: schemas.IndexName) -> Response:
        """Get the snapshot's report as one HTML page."""
        headers = {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-cache"}
        return Response(read_report(service.get_index(name)), media_type="text/html; charset=utf-8", headers=headers)


def _add_item_routes(router: APIRouter, service: Service) -> None:
    @router.get("/v1/indexes/{name}/items/{item}")
    def get_item(name: schemas.IndexName, item: schemas.ItemIdPath) -> Response:
        """Get one item."""
        return json_response(describe_item(service.get_index(name), item))

    @router.get("/v1/indexes/{name}/items/{item}/thumbnail", response_class=Response, responses=JPEG_THUMBNAIL)
    def get_thumbnail(name: schemas.IndexName, item: schemas.ItemIdPath, request: Request) -> Response:
        """Get a JPEG thumbnail of an image item."""
        index = service.get_index(name)
        row = index.items.get_rows([item])[0]
        etag = f'"{row["content_digest"]}"' if row else ""
        headers = {"ETag": etag, "Cache-Control": "private, max-age=3600"}
        if row and request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        content = make_thumbnail(index.manifest.image_root, row) if row else None
        if content is None:
            raise Problem(404, "no thumbnail for this item")
        return Response(content, media_type="image/jpeg", headers=headers)


def _add_service_routes(router: APIRouter, service: Service) -> None:
    @router.get("/healthz")
    async def healthz() -> Response:
        """Answer 200 while the service runs."""
        return json_response({"status": "ok"})

    @router.get("/readyz")
    async def readyz() -> Response:
        """Answer 200 once every index has an open snapshot, 503 until then."""
        if waiting := [name for name, live in service.indexes.items() if live.index is None]:
            raise Problem(503, f"no snapshot yet: {', '.join(waiting)}", headers={"Retry-After": "5"})
        return json_response({"status": "ready"})

    @router.get("/metrics", response_class=Response, responses=PROMETHEUS_METRICS)
    def get_metrics() -> Response:
        """Get metrics for Prometheus."""
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def answer_search(service: Service, name: str, request: Request) -> Response:
    """Answer a search request in JSON, or in bytes if the client accepts them.

    Raises Problem 429 if too many searches are running.
    """
    async with service.admit():
        index = service.get_index(name)
        search_request = await read_request(request, index.manifest.dim, service.limits)
        if request.headers.get("accept", "").startswith(RAW_MEDIA_TYPE):
            return raw_response(await service.search(index, search_request, raw=True))
        return json_response(await service.search(index, search_request))
