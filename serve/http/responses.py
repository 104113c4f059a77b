"""Response bodies that describe an index, an item or a report."""

from __future__ import annotations

from typing import Any

from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.problems import Problem
from indexmill.serve.index import OpenIndex
from indexmill.serve.queries import query_modalities

PUBLIC_FIELDS = ("name", "snapshot_id", "parent", "created_at", "fingerprint", "modality", "index_modality", "metric", "factory", "dim", "items", "database",
        "query", "rejected", "metrics", "verdict")  # fmt: skip


def summarize_index(name: str, live: LiveIndex) -> dict[str, Any]:
    """An index in a list of them."""
    manifest = live.index.manifest if live.index else None
    return {
        "name": name, "ready": manifest is not None, "snapshot_id": live.snapshot_id, "items": manifest.items if manifest else None,
        "modality": manifest.modality if manifest else None, "takes": list(query_modalities(manifest)) if manifest else [],
        "description": manifest.config.get("description", "") if manifest else "", "error": live.error or None,
    }  # fmt: skip


def describe_index(index: OpenIndex) -> dict[str, Any]:
    """An index by itself: what of its manifest concerns those who ask, and nothing of where it lies."""
    manifest = index.manifest
    libraries = {
        "kind": manifest.encoder.get("kind"),
        "precision": manifest.encoder.get("precision"),
        "libraries": manifest.encoder.get("libraries"),
    }
    return {**{name: getattr(manifest, name) for name in PUBLIC_FIELDS}, "takes": list(query_modalities(manifest)), "encoder": libraries}


def describe_item(index: OpenIndex, item: int) -> dict[str, Any]:
    """An item's row, without its place on the disk. Raises Problem, 404, for an id that the snapshot does not have."""
    row = index.items.rows([item])[0]
    if row is None:
        raise Problem(404, "the index does not hold this item")
    return {"id": str(item), **{name: row[name] for name in ("key", "label", "text", "side", "given_split")}}


def read_report(index: OpenIndex) -> bytes:
    """The report as it was published. Raises Problem, 404, where the snapshot is gone by now."""
    try:
        return (index.folder / "report" / "report.html").read_bytes()
    except OSError:
        raise Problem(404, "the report of this snapshot is no longer there") from None
