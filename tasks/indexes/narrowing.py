"""Searching some of the items only, without re-ranking, or for an item's own vector: what a service is asked beside plain search."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from tasks.indexes.factory import ivf_of
from tasks.indexes.searcher import WIDEST_EF_SEARCH, Searcher, best, distinct

SWIG: Any = faiss  # its classes of parameters have types that know nothing of their keywords
HASHTABLE = SWIG.DirectMap.Hashtable


def search_narrowed(
    searcher: Searcher, queries: np.ndarray, k: int, *, within: np.ndarray | None = None, rerank: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """As `Searcher.search`, among the items of `within` only (int64 ids, ascending), or by the index's own scores without re-ranking.

    Among some items, every inverted list is looked at: the items may lie far from the query, and all k are wanted. A graph (HNSW) is
    searched as widely as it can be, and may still give fewer.
    """
    if within is None and (rerank or not searcher.stores):
        return searcher.search(queries, k)
    queries = np.ascontiguousarray(queries, np.float32)
    found = [_shard(searcher, number, queries, k * searcher.copies, within, rerank) for number in range(len(searcher.shards))]
    if searcher.copies > 1:
        found = [distinct(scores, ids, k, larger=searcher.larger) for scores, ids in found]
    scores, ids = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return best(scores, ids, k, larger=searcher.larger)


def vectors_of(searcher: Searcher, ids: list[int]) -> np.ndarray:
    """The vectors of items, float32 (n, dim), KeyError for one that no shard holds; as the index keeps them, so codes give approximations.

    The first call on inverted lists without vectors beside them makes a table of where each item lies: 16 bytes an item and more.
    """
    vectors = np.empty((len(ids), searcher.dim), np.float32)
    for place, item in enumerate(ids):
        held = (_held(searcher, number, item) for number in range(len(searcher.shards)))
        vector = next((vector for vector in held if vector is not None), None)
        if vector is None:
            raise KeyError(item)
        vectors[place] = vector
    return vectors


def _held(searcher: Searcher, number: int, item: int) -> np.ndarray | None:
    if searcher.stores:
        store = searcher.stores[number]
        row = int(np.searchsorted(store.ids, item))
        return np.asarray(store.index.reconstruct(row)) if row < len(store.ids) and store.ids[row] == item else None
    index: Any = searcher.shards[number]
    ivf: Any = ivf_of(index)
    if ivf is not None and ivf.direct_map.type != HASHTABLE:
        ivf.set_direct_map_type(HASHTABLE)
    try:
        return np.asarray(index.reconstruct(item))
    except RuntimeError:  # FAISS's way of saying that it has no such id
        return None


def _shard(
    searcher: Searcher, number: int, queries: np.ndarray, places: int, within: np.ndarray | None, rerank: bool
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Scores and item ids (n, places) of one shard."""
    index: Any = searcher.shards[number]
    if not searcher.stores:
        scores, ids = index.search(queries, places, params=_only(index, within))
        return scores, ids
    store = searcher.stores[number]
    base = None if within is None else _only(index, np.flatnonzero(np.isin(store.ids, within, assume_unique=True)))
    if not rerank:
        scores, rows = index.search(queries, places, params=base)
    else:
        wide = max(searcher.candidates + 0.5, places) / places
        scores, rows = searcher.refined(number).search(queries, places, params=_refining(wide, base))
    return scores, store.by_row[rows]


def _refining(wide: float, base: Any) -> Any:
    return SWIG.IndexRefineSearchParameters(k_factor=wide, base_index_params=base)


def _only(index: Any, ids: np.ndarray | None) -> Any:
    """FAISS's parameters for a search among these ids of an index, whatever family it is."""
    if ids is None:
        return None
    index = faiss.downcast_index(index.index if isinstance(index, faiss.IndexIDMap) else index)
    if isinstance(index, faiss.IndexPreTransform):
        return SWIG.SearchParametersPreTransform(index_params=_only(faiss.downcast_index(index.index), ids))
    selector: Any = SWIG.IDSelectorBatch(ids.astype(np.int64))
    if isinstance(index, faiss.IndexIVF):
        return SWIG.SearchParametersIVF(sel=selector, nprobe=index.nlist)
    if isinstance(index, faiss.IndexHNSW):
        return SWIG.SearchParametersHNSW(sel=selector, efSearch=WIDEST_EF_SEARCH)
    return SWIG.SearchParameters(sel=selector)
