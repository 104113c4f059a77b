"""Re-rank candidates with the stored vectors of a shard, which FAISS reads from memory-mapped .npy files.

    <shard>.ids.npy       int64 (n,), item ids ascending, so that bisection finds the row of an id
    <shard>.vectors.npy   (n, dim) in the same order: float32 (exact), float16 (fp16) or uint8 (sq8)
    <shard>.bounds.npy    float32 (2, dim), sq8 only: the minimum of each dimension and the width of its range

FAISS scores the mapped file through a view: nothing is copied, and the operating system caches the pages in use. The
bounds belong to the training, so a row has the same bytes in every shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from indexmill.storage.records import Rerank
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf

BLOCK_ROWS = 8192
VECTOR_DTYPES: dict[str, type[np.generic]] = {"exact": np.float32, "fp16": np.float16, "sq8": np.uint8}
FILE_SUFFIXES: dict[Rerank, tuple[str, ...]] = {
    "none": (),
    "exact": ("ids.npy", "vectors.npy"),
    "fp16": ("ids.npy", "vectors.npy"),
    "sq8": ("ids.npy", "vectors.npy", "bounds.npy"),
}

VectorBlocks = Iterator[tuple[np.ndarray, np.ndarray]]  # ids int64 (n,), vectors float32 (n, dim)


@dataclass(frozen=True)
class VectorStore:
    """The vectors of a shard, one row per item.

    row_to_id: the ids, ascending, followed by -1, so that row -1 (FAISS's empty rank) maps to id -1. vectors: the rows.
    index: FAISS over the same memory, numbered by row.
    """

    row_to_id: np.ndarray
    vectors: np.ndarray
    index: faiss.Index

    @property
    def ids(self) -> np.ndarray:
        """Item ids, ascending."""
        return self.row_to_id[:-1]


def open_store(ids: Path, vectors: Path, metric: str, bounds: Path | None = None) -> VectorStore:
    """Open a store from .npy files; only `ids` and `bounds` are read into memory.

    Raises:
        ValueError: the files do not belong together: different lengths, ids out of order, uint8 vectors without bounds.
    """
    return make_store(np.load(ids), np.load(vectors, mmap_mode="r"), metric, np.load(bounds) if bounds else None)


def make_store(ids: np.ndarray, vectors: np.ndarray, metric: str, bounds: np.ndarray | None = None) -> VectorStore:
    """Make a store over arrays as described at the top of this module. Raises ValueError as `open_store` does."""
    if len(ids) != len(vectors) or ids.dtype != np.int64 or (np.diff(ids) <= 0).any():
        raise ValueError(f"{len(vectors)} vectors need as many ascending int64 ids, got {len(ids)} of type {ids.dtype}")
    dim, faiss_metric = vectors.shape[1], FAISS_METRICS[metric]
    index: Any
    if vectors.dtype == np.float32:
        index = faiss.IndexFlat(dim, faiss_metric)
    elif vectors.dtype == np.float16:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss_metric)
    elif vectors.dtype == np.uint8 and bounds is not None and bounds.shape == (2, dim):
        index = _make_sq8_quantizer(bounds, faiss_metric)
    else:
        raise ValueError(f"vectors must be float32, float16, or uint8 with bounds, got {vectors.dtype}")
    view: Any = faiss.MaybeOwnedVectorUInt8
    codes = vectors.reshape(-1).view(np.uint8)
    index.codes = view.create_view(faiss.swig_ptr(codes), codes.size, view().owner)
    index.ntotal = len(vectors)
    return VectorStore(np.append(ids, -1), vectors, index)


def renumber_by_row(index: Any, ids: np.ndarray) -> faiss.Index:
    """Make an index return row numbers (of `ids`, ascending) instead of item ids, so that re-ranking needs no lookup.

    An IVF index is changed in memory; from IDMap the inner index is taken, which is numbered by row already.

    Raises:
        ValueError: the inverted lists are on disk, or the index holds an id that `ids` lacks.
    """
    ivf = find_ivf(index)
    if ivf is None:
        if not np.array_equal(faiss.vector_to_array(index.id_map), ids):
            raise ValueError("the index does not hold the ids in the order of its vectors")
        inner: Any = faiss.downcast_index(index.index)
        inner.referenced_objects = [index]  # owns its memory
        return inner
    lists: Any = faiss.downcast_InvertedLists(ivf.invlists)  # type: ignore[arg-type]  # never None here
    if isinstance(lists, faiss.OnDiskInvertedLists):
        raise ValueError(f"an index with {type(lists).__name__} cannot be re-ranked: open it without mapping it")
    for number in range(ivf.nlist):
        if size := lists.list_size(number):
            list_ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            rows = np.minimum(np.searchsorted(ids, list_ids), len(ids) - 1)
            if not np.array_equal(ids[rows], list_ids):
                raise ValueError("the index holds an item without a stored vector")
            list_ids[:] = rows
    return index


def make_reranking_index(index: faiss.Index, store: VectorStore) -> Any:
    """Combine both into one FAISS index that searches the first and scores its candidates by the second, in one call."""
    entries, index.ntotal = index.ntotal, store.index.ntotal  # FAISS needlessly rejects an index with spilled entries
    try:
        return faiss.IndexRefine(index, store.index)
    finally:
        index.ntotal = entries


def compute_bounds(sample: np.ndarray) -> np.ndarray:
    """Compute the minimum and the width of the range of each dimension: float32 (2, dim).

    Values outside are clipped when encoded.
    """
    low = sample.min(axis=0)
    return np.stack([low, np.maximum(sample.max(axis=0) - low, 1e-9)]).astype(np.float32)


def encode_sq8(block: np.ndarray, bounds: np.ndarray | None) -> np.ndarray:
    """Encode vectors as uint8 with FAISS's quantizer: the range of a dimension in 256 equal parts, each decoded to its
    middle.
    """
    if bounds is None:
        raise ValueError("sq8 needs the bounds of each dimension")
    return _make_sq8_quantizer(bounds, faiss.METRIC_L2).sa_encode(np.ascontiguousarray(block, np.float32))


def write_vectors(
    targets: dict[str, Path],
    *,
    ids: np.ndarray,
    new_vectors: VectorBlocks,
    dim: int,
    rerank: Rerank,
    base_files: dict[str, Path] | None = None,
    bounds: np.ndarray | None = None,
) -> None:
    """Write the re-ranking files of one shard, block by block.

    Args:
        targets: suffix -> path of each file.
        ids: all ids of the shard, int64 ascending.
        new_vectors: the vectors of some of them, by ascending id; all others are copied from `base_files`.
        dim: the dimension.
        rerank: exact, fp16 or sq8.
        base_files: suffix -> path of the previous shard's files.
        bounds: float32 (2, dim), with sq8.
    """
    np.save(targets["ids.npy"], ids)
    if bounds is not None:
        np.save(targets["bounds.npy"], bounds)
    dtype = np.dtype(VECTOR_DTYPES[rerank])
    base = {suffix: np.load(path, mmap_mode="r") for suffix, path in (base_files or {}).items()}
    reader = _BlockReader(new_vectors, dim)
    with _open_npy(targets["vectors.npy"], (len(ids), dim), dtype) as file:
        for start in range(0, len(ids), BLOCK_ROWS):
            block_ids = ids[start : start + BLOCK_ROWS]
            new_ids, block = reader.read_up_to(int(block_ids[-1]))
            is_new = np.isin(block_ids, new_ids)
            rows = np.empty((len(block_ids), dim), dtype)
            rows[is_new] = encode_sq8(block, bounds) if rerank == "sq8" else block
            if not is_new.all():
                rows[~is_new] = base["vectors.npy"][np.searchsorted(base["ids.npy"], block_ids[~is_new])]
            file.write(rows.tobytes())


@contextmanager
def read_stored(paths: Mapping[str, Path]) -> Iterator[VectorBlocks]:
    """Yield the ids and vectors of exact files in blocks. paths: suffix -> path, as `write_vectors` writes them."""
    ids, vectors = np.load(paths["ids.npy"]), np.load(paths["vectors.npy"], mmap_mode="r")
    yield ((ids[start : start + BLOCK_ROWS], np.asarray(vectors[start : start + BLOCK_ROWS])) for start in range(0, len(ids), BLOCK_ROWS))


def _make_sq8_quantizer(bounds: np.ndarray, faiss_metric: int) -> faiss.IndexScalarQuantizer:
    index = faiss.IndexScalarQuantizer(bounds.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss_metric)
    faiss.copy_array_to_vector(np.ascontiguousarray(bounds, np.float32).reshape(-1), index.sq.trained)
    index.is_trained = True
    return index


@contextmanager
def _open_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Iterator[BinaryIO]:
    """Open a .npy file whose header is written and whose rows follow."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


class _BlockReader:
    """A stream of blocks, read by ascending id."""

    def __init__(self, blocks: VectorBlocks, dim: int) -> None:
        self._blocks = blocks
        self._ids, self._rows = np.empty(0, np.int64), np.empty((0, dim), np.float32)

    def read_up_to(self, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids up to `last` that were not returned before, and their vectors."""
        while not len(self._ids) or self._ids[-1] <= last:
            block = next(self._blocks, None)
            if block is None:
                break
            self._ids, self._rows = np.concatenate([self._ids, block[0]]), np.concatenate([self._rows, block[1]])
        end = int(np.searchsorted(self._ids, last, side="right"))
        ids, rows = self._ids[:end], self._rows[:end]
        self._ids, self._rows = self._ids[end:], self._rows[end:]
        return ids, rows
