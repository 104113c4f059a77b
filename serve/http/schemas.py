"""Response models and OpenAPI details that FastAPI does not derive."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, Field

from indexmill.serve.http.problems import MEDIA_TYPE
from indexmill.serve.http.requests import SearchOptions, SearchRequest

IndexName = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9-]{0,62}$", description="The index.")]
ItemIdPath = Annotated[int, Path(ge=0, lt=2**63, description="The item's id.")]

_PROBLEM_SCHEMA = {
    "type": "object", "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object", "properties": {"where": {"type": "string"}, "detail": {"type": "string"}}}},
    },
}  # fmt: skip
_STATUS_DESCRIPTIONS = {
    400: "Not HTTP as it should be", 401: "A bearer token is needed", 404: "No such index or item",
    409: "Another encoder made the snapshot",
    413: "The body is too long", 415: "No such kind of body", 421: "Asked by another name", 422: "Not a question that can be answered",
    429: "Too much at once; see Retry-After", 503: "Not ready; see Retry-After", 504: "It took too long",
}  # fmt: skip
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": said, "content": {MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA}}} for status, said in _STATUS_DESCRIPTIONS.items()
}


def file_response_schema(kind: str) -> dict[int | str, dict[str, Any]]:
    """The document's word on an answer that is no JSON."""
    return {200: {"description": "As it is", "content": {kind: {"schema": {"type": "string"}}}}}


class ResultItem(BaseModel):
    """An item; of the fields after score, those that were asked for."""

    id: str
    score: float
    rank: int | None = None
    distance: float | None = None
    key: str | None = None
    label: str | None = None
    text: str | None = None
    thumbnail: str | None = None


class SearchResponse(BaseModel):
    """For each query its results, best first."""

    index: str
    snapshot_id: str
    metric: str
    results: list[list[ResultItem]]
    encode_ms: float = Field(description="Milliseconds from the request's being read to its vectors, waiting included.")
    search_ms: float = Field(description="Milliseconds from there to the results, waiting included.")


def _query_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": "Where the body is no JSON. " + schema.get("description", ""),
    }


_OPTION_SCHEMAS = SearchOptions.model_json_schema()["properties"]
_IMAGE = {"type": "string", "format": "binary"}
SEARCH_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": SearchRequest.model_json_schema()},
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary", "description": "float32, little-endian, vector after vector"}
            },
            "image/*": {"schema": _IMAGE},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": {"type": "array", "items": _IMAGE}}}
            },
        },
    },
    "parameters": [_query_parameter(name, _OPTION_SCHEMAS[name]) for name in ("k", "label", "rerank", "fingerprint")],
}
RAW_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Results; in bytes, where that is accepted: ids int64 (n, k), then scores float32 (n, k)",
        "content": {"application/octet-stream": {"schema": _IMAGE}},
    }
}
