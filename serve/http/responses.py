"""Build the bodies of responses: indexes, items, search results, reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.problems import Problem
from indexmill.serve.index import OpenIndex, to_distance
from indexmill.serve.queries import query_modalities

RAW_MEDIA_TYPE = "application/octet-stream"
# The fields of a manifest that clients see; none of them contains a server path.
PUBLIC_FIELDS = (
    "name",
    "snapshot_id",
    "parent",
    "created_at",
    "fingerprint",
    "query_fingerprint",
    "prompts",
    "modality",
    "index_modality",
    "metric",
    "factory",
    "dim",
    "items",
    "database",
    "query",
    "rejected",
    "metrics",
    "verdict",
)


def json_response(value: Any) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(value), media_type="application/json")


def raw_response(answer: dict[str, Any]) -> Response:
    """Return search results as bytes, with their shape and the snapshot id in headers.

    The bytes are ids int64 (n, k), then scores float32 (n, k), little-endian; id -1 marks a missing result.
    """
    scores, ids = answer["results"]
    headers = {"Indexmill-Shape": f"{ids.shape[0]},{ids.shape[1]}", "Indexmill-Snapshot": answer["snapshot_id"]}
    return Response(ids.astype("<i8").tobytes() + scores.astype("<f4").tobytes(), media_type=RAW_MEDIA_TYPE, headers=headers)


def format_results(index: OpenIndex, scores: np.ndarray, ids: np.ndarray, fields: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Format the results of each query as JSON objects with the requested fields."""
    if not fields:
        ids = index.find_item_ids(ids)
    pairs = [
        [(item, score) for item, score in zip(query_ids, query_scores, strict=True) if item >= 0]
        for query_ids, query_scores in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
    if not fields:
        return [[{"id": str(item), "score": score} for item, score in row] for row in pairs]
    return [[_format_result(index, rank, item, score, fields) for rank, (item, score) in enumerate(row, start=1)] for row in pairs]


def _format_result(index: OpenIndex, rank: int, result_id: int, score: float, fields: Sequence[str]) -> dict[str, Any]:
    item, found = index.get_result_row(result_id)
    row = found or {}
    is_image = bool(index.manifest.image_root and row.get("path"))
    values = {
        "rank": rank,
        "distance": to_distance(index.manifest.metric, score),
        "key": row.get("key"),
        "label": row.get("label"),
        "text": row.get("text"),
        "thumbnail": f"/v1/indexes/{index.manifest.name}/items/{item}/thumbnail" if is_image else None,
    }
    return {"id": str(item), "score": score, **{name: values[name] for name in fields}}


def summarize_index(name: str, live: LiveIndex) -> dict[str, Any]:
    """Describe an index in the list of all indexes."""
    manifest = live.index.manifest if live.index else None
    return {
        "name": name,
        "ready": manifest is not None,
        "snapshot_id": live.snapshot_id,
        "items": manifest.items if manifest else None,
        "modality": manifest.modality if manifest else None,
        "query_modalities": list(query_modalities(manifest)) if manifest else [],
        "description": manifest.config.get("description", "") if manifest else "",
        "error": live.error or None,
    }


def describe_index(index: OpenIndex) -> dict[str, Any]:
    """Describe one index: the public part of its manifest."""
    manifest = index.manifest
    public = {name: getattr(manifest, name) for name in PUBLIC_FIELDS}
    encoder = {name: manifest.encoder.get(name) for name in ("kind", "precision", "libraries")}
    return {**public, "query_modalities": list(query_modalities(manifest)), "encoder": encoder}


def describe_item(index: OpenIndex, item: int) -> dict[str, Any]:
    """Describe one item, without its path. Raises Problem 404 for an id that is not in the snapshot."""
    row = index.items.get_rows([item])[0]
    if row is None:
        raise Problem(404, "the item is not in the index")
    return {"id": str(item), **{name: row[name] for name in ("key", "label", "text", "side", "given_split")}}


def read_report(index: OpenIndex) -> bytes:
    """Read the report of the snapshot. Raises Problem 404 if it has been removed."""
    try:
        return (index.snapshot_dir / "report" / "report.html").read_bytes()
    except OSError:
        raise Problem(404, "the report of this snapshot has been removed") from None
