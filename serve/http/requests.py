"""Parse the body of a search request: JSON, form, image or raw vectors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from starlette.datastructures import QueryParams, UploadFile
from starlette.requests import Request

from indexmill.serve.http.limits import Limits
from indexmill.serve.http.problems import Problem
from indexmill.serve.http.schemas import SearchOptions, SearchRequest

QUERY_KINDS = ("texts", "images", "vectors", "items")
MAX_CACHED_OPTIONS = 64  # query strings, each of at most 64 KB


async def read_request(request: Request, dim: int, limits: Limits) -> SearchRequest:
    """Parse a search request.

    The body is one of: JSON, as `SearchRequest`; a form with one or more files named `image`; one image file; or
    float32 vectors, little-endian, one after another, as application/octet-stream. Unless the body is JSON, options
    come from the form or the query string.

    Args:
        request: The HTTP request.
        dim: The dimension of the index's vectors.
        limits: The limits of the service.

    Raises:
        Problem: The request is not valid or above a limit.
        ValidationError: A field is not valid.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        search_request = SearchRequest.model_validate_json(await request.body())
    elif media_type == "application/octet-stream":
        search_request = _copy_options(request, vectors=_parse_vectors(await request.body(), dim))
    elif media_type == "multipart/form-data":
        search_request = await _parse_form(request, limits)
    elif media_type.startswith("image/"):
        search_request = _copy_options(request, images=[await request.body()])
    else:
        raise Problem(415, "unsupported content type; send application/json, multipart/form-data, image/* or application/octet-stream")
    _check_limits(search_request, limits)
    return search_request


def _parse_vectors(body: bytes, dim: int) -> np.ndarray:
    if not body or len(body) % (4 * dim):
        raise Problem(422, f"expected float32 vectors of {dim} numbers, {4 * dim} bytes each; got {len(body)} bytes")
    return np.frombuffer(body, "<f4").reshape(-1, dim)


async def _parse_form(request: Request, limits: Limits) -> SearchRequest:
    async with request.form(max_files=limits.max_images, max_fields=20) as form:
        uploads = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        if not uploads or any(name != "image" for name, _ in uploads):
            raise Problem(422, "the form must contain one or more files named `image` and no other files")
        search_request = _make_request({name: value for name, value in form.multi_items() if isinstance(value, str)})
        search_request.images = [await upload.read() for _, upload in uploads]
    return search_request


def _copy_options(request: Request, **query: Any) -> SearchRequest:
    return _parse_query_string(request.scope["query_string"]).model_copy(update=query)


@lru_cache(MAX_CACHED_OPTIONS)
def _parse_query_string(query_string: bytes) -> SearchRequest:
    """Parse the options of a request without its queries. Clients send the same options again and again."""
    return _make_request(QueryParams(query_string))


def _make_request(parameters: Mapping[str, str]) -> SearchRequest:
    options: dict[str, Any] = dict(parameters)
    if "fields" in options:
        options["fields"] = [name for name in options["fields"].split(",") if name]
    return SearchRequest(**SearchOptions.model_validate(options).model_dump())


def _check_limits(search_request: SearchRequest, limits: Limits) -> None:
    """Reject what the schema allows but this service, with limits of its own, does not."""
    queries_by_kind = {kind: value for kind in QUERY_KINDS if (value := getattr(search_request, kind)) is not None}
    if len(queries_by_kind) != 1:
        raise Problem(422, f"pass exactly one of {', '.join(QUERY_KINDS)}; got {len(queries_by_kind)} of them")
    ((kind, queries),) = queries_by_kind.items()
    if not isinstance(queries, list | np.ndarray):
        raise Problem(422, "vectors must be a list of lists of numbers")
    max_queries = limits.max_images if kind == "images" else limits.max_queries
    if not 1 <= len(queries) <= max_queries:
        raise Problem(422, f"a request takes 1 to {max_queries} {kind}; got {len(queries)}")
    if search_request.k > limits.max_k:
        raise Problem(422, f"k must be at most {limits.max_k}; got {search_request.k}")
