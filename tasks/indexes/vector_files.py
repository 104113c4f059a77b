"""Vectors beside a shard, from which its candidates are ranked again: ids in one file, vectors in another, in the same order.

    <shard>.ids.npy       int64 (n,), item ids ascending, so that a vector is found by bisection
    <shard>.vectors.npy   (n, dim): float32 (exact), float16 (fp16) or uint8 (sq8)
    <shard>.scales.npy    float32 (n, 2), with sq8 only: row i stands for scales[i, 0] + scales[i, 1] * vectors[i]

A row is coded by itself, so it has the same bytes whichever shard it stands in and however it came there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from configs.models import Rerank

BLOCK = 8192
TYPES: dict[str, type[np.generic]] = {"exact": np.float32, "fp16": np.float16, "sq8": np.uint8}

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


def suffixes(rerank: Rerank) -> tuple[str, ...]:
    """The files that a shard has."""
    if rerank == "none":
        return ()
    return ("ids.npy", "vectors.npy", "scales.npy") if rerank == "sq8" else ("ids.npy", "vectors.npy")


def code(block: np.ndarray, rerank: Rerank) -> dict[str, np.ndarray]:
    """float32 (n, dim) as the rows of each file but the ids'. sq8: 256 even steps from a row's least number to its greatest."""
    if rerank != "sq8":
        return {"vectors.npy": block.astype(TYPES[rerank])}
    if not len(block):
        return {"vectors.npy": block.astype(np.uint8), "scales.npy": np.empty((0, 2), np.float32)}
    low = block.min(axis=1, keepdims=True)
    step = (block.max(axis=1, keepdims=True) - low) / np.float32(255)
    codes = np.rint((block - low) / np.where(step > 0, step, 1)).astype(np.uint8)
    return {"vectors.npy": codes, "scales.npy": np.concatenate([low, step], axis=1, dtype=np.float32)}


def write_vectors(targets: dict[str, Path], ids: np.ndarray, new: Blocks, dim: int, rerank: Rerank, old: dict[str, Path] | None) -> None:
    """Write the files of one shard, block by block.

    targets: suffix -> path. ids: int64, ascending, all that the shard holds. new: the vectors of some of them, ascending; the others are
    copied from the files `old`.
    """
    np.save(targets["ids.npy"], ids)
    rows = {suffix: row.shape[1:] for suffix, row in code(np.zeros((1, dim), np.float32), rerank).items()}
    kinds = {suffix: np.dtype(np.float32 if suffix == "scales.npy" else TYPES[rerank]) for suffix in rows}
    earlier = {suffix: np.load(path, mmap_mode="r") for suffix, path in (old or {}).items()}
    stream = _Stream(new, dim)
    with ExitStack() as files:
        opened = {suffix: files.enter_context(_npy(targets[suffix], (len(ids), *rows[suffix]), kinds[suffix])) for suffix in rows}
        for start in range(0, len(ids), BLOCK):
            chunk = ids[start : start + BLOCK]
            new_ids, block = stream.upto(int(chunk[-1]))
            coded, is_new = code(block, rerank), np.isin(chunk, new_ids)
            for suffix in rows:
                merged = np.empty((len(chunk), *rows[suffix]), kinds[suffix])
                merged[is_new] = coded[suffix]
                if not is_new.all():
                    merged[~is_new] = earlier[suffix][np.searchsorted(earlier["ids.npy"], chunk[~is_new])]
                opened[suffix].write(merged.tobytes())


@contextmanager
def _npy(path: Path, shape: tuple[int, ...], kind: np.dtype[np.generic]) -> Iterator[BinaryIO]:
    """A .npy file with its header written and its rows to follow."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


class _Stream:
    """A stream of blocks, taken by ascending id."""

    def __init__(self, blocks: Blocks, dim: int) -> None:
        self._blocks = blocks
        self._ids, self._rows = np.empty(0, np.int64), np.empty((0, dim), np.float32)

    def upto(self, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids up to `last` that were not taken before, and their vectors."""
        while not len(self._ids) or self._ids[-1] <= last:
            block = next(self._blocks, None)
            if block is None:
                break
            self._ids, self._rows = np.concatenate([self._ids, block[0]]), np.concatenate([self._rows, block[1]])
        end = int(np.searchsorted(self._ids, last, side="right"))
        taken = self._ids[:end], self._rows[:end]
        self._ids, self._rows = self._ids[end:], self._rows[end:]
        return taken
