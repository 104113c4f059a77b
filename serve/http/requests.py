"""Parse the body of a search request: JSON, form, image or raw vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints
from starlette.datastructures import UploadFile
from starlette.requests import Request

from indexmill.serve.http.limits import Limits
from indexmill.serve.http.problems import Problem

ItemId = Annotated[int, Field(ge=0, lt=2**63)]
QueryText = Annotated[str, StringConstraints(max_length=Limits.text_length)]
ShortText = Annotated[str, StringConstraints(max_length=1000)]
FieldName = Literal["rank", "distance", "key", "label", "text", "thumbnail"]
ALL_FIELDS: tuple[FieldName, ...] = ("rank", "distance", "key", "label", "text", "thumbnail")
QUERY_KINDS = ("texts", "images", "vectors", "items")


class SearchOptions(BaseModel):
    """What goes with every kind of query."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=10, ge=1, le=Limits.k, description="How many results a query.")
    label: ShortText | None = Field(default=None, description="Only items with this label.")
    where: dict[Literal["label", "key", "side", "given_split"], ShortText | list[ShortText]] = Field(
        default_factory=dict, max_length=4, description="Only items that have, in each of these columns, one of the values."
    )
    rerank: bool = Field(default=True, description="Rank candidates again by their full vectors, where the index has them.")
    fields: list[FieldName] = Field(
        default=list(ALL_FIELDS), max_length=6, description="What to say of an item beside its id and score; an empty list is quickest."
    )
    fingerprint: ShortText | None = Field(default=None, description="Refuse to answer unless this encoder made the snapshot.")


class SearchRequest(SearchOptions):
    """One kind of query, one or many. Item ids may be strings, since JavaScript rounds numbers as long as they are."""

    texts: list[QueryText] | None = Field(default=None, min_length=1, max_length=Limits.batch)
    images: list[Base64Bytes] | None = Field(default=None, min_length=1, max_length=Limits.images, description="Image files in base64.")
    vectors: Any = Field(
        default=None, description="Lists of numbers, one a query.",
        json_schema_extra={"type": "array", "items": {"type": "array", "items": {"type": "number"}}, "maxItems": Limits.batch},
    )  # fmt: skip
    items: list[ItemId] | None = Field(default=None, min_length=1, max_length=Limits.batch)


async def read_request(request: Request, dim: int, limits: Limits) -> SearchRequest:
    """The search that a request asks for.

    JSON as SearchRequest; a form with one or more files `image`; one image file as the whole body; or float32 vectors, little-endian, one
    after another, as application/octet-stream. But for JSON, the options are in the query string or the form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        search_request = SearchRequest.model_validate_json(await request.body())
    elif kind == "application/octet-stream":
        search_request = _make_request(request.query_params, vectors=_parse_vectors(await request.body(), dim))
    elif kind == "multipart/form-data":
        search_request = await _parse_form(request, limits)
    elif kind.startswith("image/"):
        search_request = _make_request(request.query_params)
        search_request.images = [await request.body()]
    else:
        raise Problem(415, "send application/json, multipart/form-data, an image, or application/octet-stream")
    _check_limits(search_request, limits)
    return search_request


def _parse_vectors(body: bytes, dim: int) -> np.ndarray:
    if not body or len(body) % (4 * dim):
        raise Problem(422, f"{len(body)} bytes are no vectors of {dim} numbers with 4 bytes each")
    return np.frombuffer(body, "<f4").reshape(-1, dim)


async def _parse_form(request: Request, limits: Limits) -> SearchRequest:
    async with request.form(max_files=limits.images, max_fields=20) as form:
        files = [value for name, value in form.multi_items() if name == "image" and isinstance(value, UploadFile)]
        given = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        if not files or any(isinstance(value, UploadFile) and name != "image" for name, value in form.multi_items()):
            raise Problem(422, "the form must hold one or more files named `image`, and no others")
        search_request = _make_request(given)
        search_request.images = [await file.read() for file in files]
    return search_request


def _make_request(given: Mapping[str, str], **query: Any) -> SearchRequest:
    options: dict[str, Any] = dict(given)
    if "fields" in options:
        options["fields"] = [name for name in options["fields"].split(",") if name]
    return SearchRequest(**SearchOptions.model_validate(options).model_dump(), **query)


def _check_limits(search_request: SearchRequest, limits: Limits) -> None:
    """Refuse what this service, with limits of its own, does not take on."""
    given = {kind: value for kind in QUERY_KINDS if (value := getattr(search_request, kind)) is not None}
    if len(given) != 1:
        raise Problem(422, f"ask with one of {', '.join(QUERY_KINDS)}, and not with {len(given)} of them")
    ((kind, queries),) = given.items()
    if not isinstance(queries, list | np.ndarray):
        raise Problem(422, "vectors are a list of lists of numbers")
    most = limits.images if kind == "images" else limits.batch
    if not 1 <= len(queries) <= most:
        raise Problem(422, f"one request may ask 1 to {most} {kind}, and this asks {len(queries)}")
    if search_request.k > limits.k:
        raise Problem(422, f"k may be {limits.k} at most")
