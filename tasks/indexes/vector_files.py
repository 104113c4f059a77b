"""Vectors beside a shard, from which its candidates are ranked again: ids in one file, vectors in another, in the same order.

    <shard>.ids.npy       int64 (n,), item ids ascending, so that an id's row is found by bisection
    <shard>.vectors.npy   (n, dim): float32 (exact), float16 (fp16) or uint8 (sq8)
    <shard>.bounds.npy    float32 (2, dim), with sq8 only: the least value of each dimension and the width of its range

The bounds are the training's, so a row has the same bytes whichever shard it stands in and however it came there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexmill.configs.models import Rerank
from indexmill.tasks.indexes.rerank import coded

BLOCK = 8192
TYPES: dict[str, type[np.generic]] = {"exact": np.float32, "fp16": np.float16, "sq8": np.uint8}

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


def suffixes(rerank: Rerank) -> tuple[str, ...]:
    """The files that a shard has."""
    if rerank == "none":
        return ()
    return ("ids.npy", "vectors.npy", "bounds.npy") if rerank == "sq8" else ("ids.npy", "vectors.npy")


def write_vectors(
    targets: dict[str, Path], ids: np.ndarray, new: Blocks, dim: int, rerank: Rerank, old: dict[str, Path] | None, bounds: np.ndarray | None
) -> None:
    """Write the files of one shard, block by block.

    targets: suffix -> path. ids: int64, ascending, all that the shard holds. new: the vectors of some of them, ascending; the others are
    copied from the files `old`. bounds: with sq8.
    """
    np.save(targets["ids.npy"], ids)
    if bounds is not None:
        np.save(targets["bounds.npy"], bounds)
    kind = np.dtype(TYPES[rerank])
    earlier = {suffix: np.load(path, mmap_mode="r") for suffix, path in (old or {}).items()}
    stream = _Stream(new, dim)
    with _npy(targets["vectors.npy"], (len(ids), dim), kind) as file:
        for start in range(0, len(ids), BLOCK):
            chunk = ids[start : start + BLOCK]
            new_ids, block = stream.upto(int(chunk[-1]))
            is_new = np.isin(chunk, new_ids)
            rows = np.empty((len(chunk), dim), kind)
            rows[is_new] = coded(block, bounds) if rerank == "sq8" else block
            if not is_new.all():
                rows[~is_new] = earlier["vectors.npy"][np.searchsorted(earlier["ids.npy"], chunk[~is_new])]
            file.write(rows.tobytes())


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
