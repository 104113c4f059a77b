"""Clustered random vectors with labels, in files that every child process memory-maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPREAD = 1.6  # distance of an item from its center; labels overlap, so that average precision is neither 0 nor 1
BLOCK = 10_000


def write_data(folder: Path, queries: int, database: int, dim: int, labels: int) -> None:
    """Write `queries.npy` and `database.npy`, float32 (n, dim) of length 1, and their labels, int32 (n,); seeded."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((labels, dim), np.float32)
    for name, count in (("queries", queries), ("database", database)):
        codes = random.integers(0, labels, count).astype(np.int32)
        vectors = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, dim))
        for start in range(0, count, BLOCK):
            block_codes = codes[start : start + BLOCK]
            block = centers[block_codes] + SPREAD * (dim / 16) ** 0.5 * random.standard_normal((len(block_codes), dim), np.float32)
            vectors[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
        np.save(folder / f"{name}-labels.npy", codes)


def read_data(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return memory-mapped vectors, and labels."""
    return np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / f"{name}-labels.npy")
