"""Request and response models, and the parts of the OpenAPI document that FastAPI does not derive."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints

from indexmill.serve.http.limits import Limits
from indexmill.serve.http.problems import MEDIA_TYPE

IndexName = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9-]{0,62}$", description="The name of the index.")]
ItemIdPath = Annotated[int, Path(ge=0, lt=2**63, description="The id of the item.")]
ItemId = Annotated[int, Field(ge=0, lt=2**63)]
QueryText = Annotated[str, StringConstraints(max_length=Limits.max_text_length)]
ShortText = Annotated[str, StringConstraints(max_length=1000)]
FieldName = Literal["rank", "distance", "key", "label", "text", "thumbnail"]
FilterColumn = Literal["label", "key", "side", "given_split"]
ALL_FIELDS: tuple[FieldName, ...] = ("rank", "distance", "key", "label", "text", "thumbnail")


class SearchOptions(BaseModel):
    """Options for every kind of query."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=10, ge=1, le=Limits.max_k, description="Number of results per query.")
    label: ShortText | None = Field(default=None, description="Return only items with this label.")
    where: dict[FilterColumn, ShortText | list[ShortText]] = Field(
        default_factory=dict,
        max_length=4,
        description="Return only items that match: column -> one accepted value, or several. An item must match every column.",
    )
    rerank: bool = Field(
        default=True, description="Score the candidates of a compressed index again with their stored vectors, if the index has them."
    )
    fields: list[FieldName] = Field(
        default=list(ALL_FIELDS),
        max_length=6,
        description="Fields to return besides `id` and `score`. An empty list is fastest.",
    )
    fingerprint: ShortText | None = Field(
        default=None, description="The encoder fingerprint you expect. The answer is 409 if the snapshot was built by another encoder."
    )


class SearchRequest(SearchOptions):
    """One or more queries of one kind. Item ids may be strings, because JavaScript rounds large integers."""

    texts: list[QueryText] | None = Field(default=None, min_length=1, max_length=Limits.max_queries, description="Query texts.")
    images: list[Base64Bytes] | None = Field(
        default=None, min_length=1, max_length=Limits.max_images, description="Image files, base64-encoded."
    )
    # Any: millions of numbers are checked by NumPy, not one by one by pydantic.
    vectors: Any = Field(
        default=None,
        description="Query vectors: one list of numbers per query.",
        json_schema_extra={
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}},
            "maxItems": Limits.max_queries,
        },
    )
    items: list[ItemId] | None = Field(
        default=None, min_length=1, max_length=Limits.max_queries, description="Ids of indexed items to use as queries."
    )


class ResultItem(BaseModel):
    """One result: its id and score, and the fields that the request asks for."""

    id: str
    score: float
    rank: int | None = None
    distance: float | None = None
    key: str | None = None
    label: str | None = None
    text: str | None = None
    thumbnail: str | None = None


class SearchResponse(BaseModel):
    """The results of each query, best first."""

    index: str
    snapshot_id: str
    metric: str
    results: list[list[ResultItem]]
    encode_ms: float = Field(description="Milliseconds from the parsed request to its vectors, including time in the queue.")
    search_ms: float = Field(description="Milliseconds from the vectors to the results, including time in the queue.")


_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"where": {"type": "string"}, "detail": {"type": "string"}}},
        },
    },
}
_STATUS_DESCRIPTIONS = {
    400: "Malformed request",
    401: "Bearer token required",
    404: "Index or item not found",
    409: "The snapshot was built by another encoder",
    413: "Request body too large",
    415: "Unsupported content type",
    421: "Host not allowed",
    422: "Invalid query",
    429: "Too many requests; see Retry-After",
    503: "Not ready; see Retry-After",
    504: "The request timed out",
}
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {"schema": _PROBLEM_SCHEMA}}}
    for status, description in _STATUS_DESCRIPTIONS.items()
}


def file_response_schema(media_type: str, description: str) -> dict[int | str, dict[str, Any]]:
    """Describe a response that is not JSON."""
    return {200: {"description": description, "content": {media_type: {"schema": {"type": "string"}}}}}


def _query_parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    description = f"{schema.get('description', '')} Only for bodies that are not JSON."
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_OPTION_SCHEMAS = SearchOptions.model_json_schema()["properties"]
_BINARY = {"type": "string", "format": "binary"}
SEARCH_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": SearchRequest.model_json_schema()},
            "application/octet-stream": {
                "schema": {**_BINARY, "description": "Query vectors as float32, little-endian, one after another."}
            },
            "image/*": {"schema": {**_BINARY, "description": "One image file."}},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": {"type": "array", "items": _BINARY}}}
            },
        },
    },
    "parameters": [_query_parameter(name, _OPTION_SCHEMAS[name]) for name in ("k", "label", "rerank", "fingerprint")],
}
RAW_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The results. With `Accept: application/octet-stream`: ids as int64 (n, k), then scores as float32 (n, k).",
        "content": {"application/octet-stream": {"schema": _BINARY}},
    }
}
