"""Small embedding sets with labels and groups, written directly into an embedding store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.records import EmbeddingSet, FileRef, Side
from indexmill.storage.root import Root
from tests.storage.embedding_parts import add_vectors


def write_embeddings(
    root: Root,
    vectors: np.ndarray,
    sides: Sequence[Side],
    labels: Sequence[str | None],
    groups: Sequence[str] | None = None,
    digest: str = "d",
) -> EmbeddingSet:
    """Write items 1, 2, 3, … with these vectors, float32 (n, dim). Every item is a group of its own unless `groups` is given."""
    ids = list(range(1, len(vectors) + 1))
    contents = [f"{digest}{item:03d}" for item in ids]
    store = EmbeddingStore(root, f"f{digest}")
    add_vectors(store, ids, contents, vectors.astype(np.float32))
    path = root.path / f"items-{digest}.parquet"
    columns: dict[str, list[object]] = {
        "item_id": [*ids],
        "key": [f"k{item}" for item in ids],
        "label": [*labels],
        "text": [f"text {item}" for item in ids],
        "path": [None] * len(ids),
        "content_digest": [*contents],
        "content_group": [*(groups or contents)],
        "side": [*sides],
        "leak": [False] * len(ids),
    }
    pl.DataFrame(columns, schema_overrides={"path": pl.String, "label": pl.String}).write_parquet(path)
    ref = root.make_ref(path)
    return EmbeddingSet(
        digest=digest,
        files=(ref, *(root.make_ref(part) for part in store.list_parts())),
        split="s",
        modality="text",
        fingerprint=f"f{digest}",
        encoder={"precision": "float32"},
        dim=vectors.shape[1],
        database=list(sides).count("database"),
        query=list(sides).count("query"),
        encoded=len(ids),
        reused=0,
        rejected=0,
        truncated=0,
        items=ref,
        rejects=None,
    )


def write_pairs(root: Root, rows: list[tuple[str, float, int, int]]) -> FileRef:
    """Write pairs.parquet from rows of (file, score, item_a, item_b)."""
    path: Path = root.path / "pairs.parquet"
    columns = dict(zip(("file", "score", "item_a", "item_b"), map(list, zip(*rows, strict=True)), strict=True))
    pl.DataFrame({**columns, "split": [None] * len(rows)}).write_parquet(path)
    return root.make_ref(path)
