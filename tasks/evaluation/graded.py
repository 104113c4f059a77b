"""Scored pairs: does the cosine of two items' vectors rise with the score that people gave them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexmill.storage import tables
from indexmill.storage.embeddings import vectors
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.measures.graded import correlations, cosines

PAIRS_AT_ONCE = 4096
MOST_PAIRS = 1_000_000  # about 100 bytes each


def graded(root: Root, embeddings: EmbeddingSet, pairs: FileRef) -> dict[str, dict[str, float | int | None]]:
    """Spearman and Pearson by file and `overall`, over the pairs of which both items have a vector; at most MOST_PAIRS, by their ids.

    The vectors of the items in pairs are laid out in a mapped file.
    """
    sql = f"SELECT file, score, item_a, item_b FROM {tables.parquet(root.file(pairs))} ORDER BY file, item_a, item_b LIMIT {MOST_PAIRS}"
    with tables.query(sql, spill=root.tmp) as batches:
        parts = [[batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names] for batch in batches]
    if not parts:
        return {}
    files, scores, left, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    with root.scratch.staging() as staging:
        wanted = np.unique([left, right])
        there, mapped = _laid_out(root, embeddings, wanted, staging / "pairs.npy")
        left, right = np.searchsorted(wanted, left), np.searchsorted(wanted, right)
        both = there[left] & there[right]
        cosine = cosines(_blocks(mapped, left[both], right[both]))
    return correlations(cosine, scores[both], files[both].astype(str)) if len(cosine) else {}


def _laid_out(root: Root, embeddings: EmbeddingSet, wanted: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which of the wanted items (int64 (n,), ascending) have a vector, on whatever side, and the vectors: rows of a mapped file."""
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (len(wanted), embeddings.dim))
    there = np.zeros(len(wanted), bool)
    for side in ("database", "query"):
        with vectors(root, embeddings, side=side) as blocks:
            for ids, block in blocks:
                mine = np.isin(ids, wanted)
                rows = np.searchsorted(wanted, ids[mine])
                mapped[rows], there[rows] = block[mine], True
    return there, mapped


def _blocks(mapped: np.ndarray, left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(left), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        yield mapped[left[block]], mapped[right[block]]
