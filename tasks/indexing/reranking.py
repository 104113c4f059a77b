"""Re-rank candidates with the full vectors of a shard, which FAISS reads from memory-mapped .npy files.

    <shard>.ids.npy       int64 (n,), item ids ascending, so that the row of an id is found by bisection
    <shard>.vectors.npy   (n, dim) in the same order: float32 (exact), float16 (fp16) or uint8 (sq8)
    <shard>.bounds.npy    float32 (2, dim), sq8 only: the minimum of each dimension and the width of its range

FAISS scores the mapped file through a view; nothing is copied, and the operating system keeps the pages in use. The bounds belong to the
training, so a row has the same bytes in every shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from indexmill.storage.records import Rerank
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf


@dataclass(frozen=True)
class VectorStore:
    """A shard's vectors: row i of `vectors` is item ids[i]. index: FAISS over the same memory, numbered by row.

    by_row: ids and -1 behind them, so that row -1, which is FAISS's empty place, is item -1.
    """

    by_row: np.ndarray
    vectors: np.ndarray
    index: faiss.Index

    @property
    def ids(self) -> np.ndarray:
        """Item ids, ascending."""
        return self.by_row[:-1]


def open_store(ids: Path, vectors: Path, metric: str, bounds: Path | None = None) -> VectorStore:
    """The store in these .npy files, of which only `ids` and `bounds` are read into memory.

    Raises ValueError where the files do not belong together: other lengths, ids out of order, uint8 vectors without bounds.
    """
    return store(np.load(ids), np.load(vectors, mmap_mode="r"), metric, np.load(bounds) if bounds else None)


def store(ids: np.ndarray, vectors: np.ndarray, metric: str, bounds: np.ndarray | None = None) -> VectorStore:
    """A store over arrays as this module's docstring has them."""
    if len(ids) != len(vectors) or ids.dtype != np.int64 or (np.diff(ids) <= 0).any():
        raise ValueError(f"{len(vectors)} vectors need as many int64 ids in ascending order, and have {len(ids)} of type {ids.dtype}")
    dim, kind = vectors.shape[1], FAISS_METRICS[metric]
    index: Any
    if vectors.dtype == np.float32:
        index = faiss.IndexFlat(dim, kind)
    elif vectors.dtype == np.float16:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, kind)
    elif vectors.dtype == np.uint8 and bounds is not None and bounds.shape == (2, dim):
        index = _make_sq8_quantizer(bounds, kind)
    else:
        raise ValueError(f"vectors of type {vectors.dtype} are none of float32, float16 and uint8, or their bounds are not there")
    view: Any = faiss.MaybeOwnedVectorUInt8
    codes = vectors.reshape(-1).view(np.uint8)
    index.codes = view.create_view(faiss.swig_ptr(codes), codes.size, view().owner)
    index.ntotal = len(vectors)
    return VectorStore(np.append(ids, -1), vectors, index)


def compute_bounds(sample: np.ndarray) -> np.ndarray:
    """float32 (2, dim): least value and width of the range of each dimension. What lies outside is taken as the nearest inside."""
    low = sample.min(axis=0)
    return np.stack([low, np.maximum(sample.max(axis=0) - low, 1e-9)]).astype(np.float32)


def by_row(index: Any, ids: np.ndarray) -> faiss.Index:
    """The same index giving row numbers (of `ids`, ascending) instead of item ids, so that re-ranking needs no look-up.

    An IVF index is changed where it lies in memory; of a wrapped one the inside is taken, whose numbers are rows already. Raises
    ValueError for inverted lists on disk, and where the index holds an id that `ids` lacks.
    """
    ivf = find_ivf(index)
    if ivf is None:
        if not np.array_equal(faiss.vector_to_array(index.id_map), ids):
            raise ValueError("the index does not hold the ids in the order of its vectors")
        inner: Any = faiss.downcast_index(index.index)
        inner.referenced_objects = [index]  # whose memory it is
        return inner
    lists: Any = faiss.downcast_InvertedLists(ivf.invlists)  # type: ignore[arg-type]  # never None here
    if isinstance(lists, faiss.OnDiskInvertedLists):
        raise ValueError(f"an index with {type(lists).__name__} cannot be re-ranked: open it without mapping it")
    for number in range(ivf.nlist):
        if size := lists.list_size(number):
            held = faiss.rev_swig_ptr(lists.get_ids(number), size)
            rows = np.minimum(np.searchsorted(ids, held), len(ids) - 1)
            if not np.array_equal(ids[rows], held):
                raise ValueError("the index holds an item whose vector is not there")
            held[:] = rows
    return index


def refined(index: faiss.Index, store: VectorStore) -> Any:
    """Both as one FAISS index that searches the first and scores what it found by the second, in one call."""
    held, index.ntotal = index.ntotal, store.index.ntotal  # FAISS refuses, for no need of its own, an index in which items lie twice
    try:
        return faiss.IndexRefine(index, store.index)
    finally:
        index.ntotal = held


def _make_sq8_quantizer(bounds: np.ndarray, kind: int) -> faiss.IndexScalarQuantizer:
    index = faiss.IndexScalarQuantizer(bounds.shape[1], faiss.ScalarQuantizer.QT_8bit, kind)
    faiss.copy_array_to_vector(np.ascontiguousarray(bounds, np.float32).reshape(-1), index.sq.trained)
    index.is_trained = True
    return index


def encode_sq8(block: np.ndarray, bounds: np.ndarray | None) -> np.ndarray:
    """uint8 codes by FAISS's own rule: the range of a dimension in 256 equal parts, each decoded to its middle."""
    if bounds is None:
        raise ValueError("sq8 needs the bounds of each dimension")
    return _make_sq8_quantizer(bounds, faiss.METRIC_L2).sa_encode(np.ascontiguousarray(block, np.float32))


BLOCK_ROWS = 8192
VECTOR_DTYPES: dict[str, type[np.generic]] = {"exact": np.float32, "fp16": np.float16, "sq8": np.uint8}

VectorBlocks = Iterator[tuple[np.ndarray, np.ndarray]]


def list_suffixes(rerank: Rerank) -> tuple[str, ...]:
    """The files that a shard has."""
    if rerank == "none":
        return ()
    return ("ids.npy", "vectors.npy", "bounds.npy") if rerank == "sq8" else ("ids.npy", "vectors.npy")


def write_vectors(
    targets: dict[str, Path],
    ids: np.ndarray,
    new: VectorBlocks,
    dim: int,
    rerank: Rerank,
    old: dict[str, Path] | None,
    bounds: np.ndarray | None,
) -> None:
    """Write the files of one shard, block by block.

    targets: suffix -> path. ids: int64, ascending, all that the shard holds. new: the vectors of some of them, ascending; the others are
    copied from the files `old`. bounds: with sq8.
    """
    np.save(targets["ids.npy"], ids)
    if bounds is not None:
        np.save(targets["bounds.npy"], bounds)
    kind = np.dtype(VECTOR_DTYPES[rerank])
    earlier = {suffix: np.load(path, mmap_mode="r") for suffix, path in (old or {}).items()}
    stream = _BlockReader(new, dim)
    with _open_npy(targets["vectors.npy"], (len(ids), dim), kind) as file:
        for start in range(0, len(ids), BLOCK_ROWS):
            chunk = ids[start : start + BLOCK_ROWS]
            new_ids, block = stream.read_up_to(int(chunk[-1]))
            is_new = np.isin(chunk, new_ids)
            rows = np.empty((len(chunk), dim), kind)
            rows[is_new] = encode_sq8(block, bounds) if rerank == "sq8" else block
            if not is_new.all():
                rows[~is_new] = earlier["vectors.npy"][np.searchsorted(earlier["ids.npy"], chunk[~is_new])]
            file.write(rows.tobytes())


@contextmanager
def _open_npy(path: Path, shape: tuple[int, ...], kind: np.dtype[np.generic]) -> Iterator[BinaryIO]:
    """A .npy file with its header written and its rows to follow."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


class _BlockReader:
    """A stream of blocks, taken by ascending id."""

    def __init__(self, blocks: VectorBlocks, dim: int) -> None:
        self._blocks = blocks
        self._ids, self._rows = np.empty(0, np.int64), np.empty((0, dim), np.float32)

    def read_up_to(self, last: int) -> tuple[np.ndarray, np.ndarray]:
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
