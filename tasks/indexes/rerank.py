"""Re-ranking: the vectors of a shard in a plain .npy file, memory-mapped, in which FAISS scores the candidates of a coarser index.

A shard has `ids` int64 (n,), ascending, and `vectors` (n, dim) in the same order, as one of

    exact   float32
    fp16    float16
    sq8     uint8, and `bounds` float32 (2, dim): the least value of each dimension and the width of its range

FAISS reads the mapped file where it lies, through a view; nothing is copied, and the operating system keeps the pages that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexes.factory import METRICS, ivf_of


@dataclass(frozen=True)
class Store:
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


def open_store(ids: Path, vectors: Path, metric: str, bounds: Path | None = None) -> Store:
    """The store in these .npy files, of which only `ids` and `bounds` are read into memory.

    Raises ValueError where the files do not belong together: other lengths, ids out of order, uint8 vectors without bounds.
    """
    return store(np.load(ids), np.load(vectors, mmap_mode="r"), metric, np.load(bounds) if bounds else None)


def store(ids: np.ndarray, vectors: np.ndarray, metric: str, bounds: np.ndarray | None = None) -> Store:
    """A store over arrays as this module's docstring has them."""
    if len(ids) != len(vectors) or ids.dtype != np.int64 or (np.diff(ids) <= 0).any():
        raise ValueError(f"{len(vectors)} vectors need as many int64 ids in ascending order, and have {len(ids)} of type {ids.dtype}")
    dim, kind = vectors.shape[1], METRICS[metric]
    index: Any
    if vectors.dtype == np.float32:
        index = faiss.IndexFlat(dim, kind)
    elif vectors.dtype == np.float16:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, kind)
    elif vectors.dtype == np.uint8 and bounds is not None and bounds.shape == (2, dim):
        index = _quantizer(bounds, kind)
    else:
        raise ValueError(f"vectors of type {vectors.dtype} are none of float32, float16 and uint8, or their bounds are not there")
    view: Any = faiss.MaybeOwnedVectorUInt8
    codes = vectors.reshape(-1).view(np.uint8)
    index.codes = view.create_view(faiss.swig_ptr(codes), codes.size, view().owner)
    index.ntotal = len(vectors)
    return Store(np.append(ids, -1), vectors, index)


def bounds_of(sample: np.ndarray) -> np.ndarray:
    """float32 (2, dim): least value and width of the range of each dimension. What lies outside is taken as the nearest inside."""
    low = sample.min(axis=0)
    return np.stack([low, np.maximum(sample.max(axis=0) - low, 1e-9)]).astype(np.float32)


def by_row(index: Any, ids: np.ndarray) -> faiss.Index:
    """The same index giving row numbers (of `ids`, ascending) instead of item ids, so that re-ranking needs no look-up.

    An IVF index is changed where it lies in memory; of a wrapped one the inside is taken, whose numbers are rows already. Raises
    ValueError for inverted lists on disk, and where the index holds an id that `ids` lacks.
    """
    ivf = ivf_of(index)
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


def refined(index: faiss.Index, store: Store) -> Any:
    """Both as one FAISS index that searches the first and scores what it found by the second, in one call."""
    held, index.ntotal = index.ntotal, store.index.ntotal  # FAISS refuses, for no need of its own, an index in which items lie twice
    try:
        return faiss.IndexRefine(index, store.index)
    finally:
        index.ntotal = held


def _quantizer(bounds: np.ndarray, kind: int) -> faiss.IndexScalarQuantizer:
    index = faiss.IndexScalarQuantizer(bounds.shape[1], faiss.ScalarQuantizer.QT_8bit, kind)
    faiss.copy_array_to_vector(np.ascontiguousarray(bounds, np.float32).reshape(-1), index.sq.trained)
    index.is_trained = True
    return index


def coded(block: np.ndarray, bounds: np.ndarray | None) -> np.ndarray:
    """uint8 codes by FAISS's own rule: the range of a dimension in 256 equal parts, each decoded to its middle."""
    if bounds is None:
        raise ValueError("sq8 needs the bounds of each dimension")
    return _quantizer(bounds, faiss.METRIC_L2).sa_encode(np.ascontiguousarray(block, np.float32))
