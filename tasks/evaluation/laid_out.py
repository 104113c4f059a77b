"""Vectors laid out in one memory-mapped file, for measures that read them again and again in an order of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexmill.storage.embeddings import vectors
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root


def laid_out(root: Root, embeddings: EmbeddingSet, side: Side, count: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One side's ids, int64 (count,), ascending, and its vectors, float32 (count, dim), mapped from `path`. Holds 8 bytes an item."""
    ids = np.empty(count, np.int64)
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (count, embeddings.dim))
    start = 0
    with vectors(root, embeddings, side=side) as blocks:
        for block_ids, block in blocks:
            stop = start + len(block_ids)
            ids[start:stop], mapped[start:stop] = block_ids, block
            start = stop
    return ids, mapped
