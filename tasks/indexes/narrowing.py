"""Searching some of the items only, without re-ranking, or for an item's own vector: what a service is asked beside plain search."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexes.factory import ivf_of
from indexmill.tasks.indexes.searcher import SWIG, WIDEST_EF_SEARCH, Searcher, best, distinct

HASHTABLE = SWIG.DirectMap.Hashtable
FEW = 5000  # items of a shard that are compared with a query one by one: a millisecond or two


def search_narrowed(
    searcher: Searcher, queries: np.ndarray, k: int, *, within: np.ndarray | None = None, rerank: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """As `Searcher.search`, among the items of `within` only (int64 ids, ascending), or by the index's own scores without re-ranking.

    Among some items, all k that there are come back. A FEW are compared one by one with their vectors, where these are at hand. Of more,
    every inverted list is looked at, since the items may lie far from the query; a graph (HNSW) is searched as widely as it can be, and
    where its paths do not lead to k of them, these queries are compared one by one too. Nothing is copied but the ids.
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
        return _plain(index, queries, places, within)
    store = searcher.stores[number]
    rows = None if within is None else _rows_of(store.ids, within)
    exact: Any = store.index if rerank else _vectors(index)
    if rows is not None and len(rows) <= FEW and exact is not None:
        scores, found = _one_by_one(exact, queries, places, rows)
    elif rerank:
        scores, found = searcher.refined(number).search(queries, places, params=searcher.refining(places, _only(index, rows)))
        _complete(exact, queries, scores, found, rows)
    else:
        scores, found = index.search(queries, places, params=_only(index, rows))
        _complete(exact, queries, scores, found, rows)
    return scores, store.by_row[found]


def _plain(index: Any, queries: np.ndarray, places: int, within: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """As `_shard`, of an index that gives item ids; a graph's own vectors are at hand."""
    exact = _vectors(index.index) if within is not None and isinstance(index, faiss.IndexIDMap) else None
    if exact is None or within is None:
        scores, ids = index.search(queries, places, params=_only(index, within))
        return scores, ids
    held = faiss.rev_swig_ptr(index.id_map.data(), index.ntotal)
    rows = np.flatnonzero(np.isin(held, within))
    if len(rows) <= FEW:
        scores, found = _one_by_one(exact, queries, places, rows)
    else:
        inside = faiss.downcast_index(index.index)
        scores, found = inside.search(queries, places, params=_only(inside, rows))
        _complete(exact, queries, scores, found, rows)
    return scores, np.where(found < 0, -1, held[found])


def _rows_of(ids: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The rows, ascending, that hold an id of `within`; both int64 and ascending."""
    rows = np.minimum(np.searchsorted(ids, within), max(len(ids) - 1, 0))
    return rows[ids[rows] == within] if len(ids) else rows[:0]


def _vectors(index: Any) -> Any:
    """The index over the vectors between which a graph leads; None for other families, in which nothing is lost on the way."""
    inside = faiss.downcast_index(index)
    return faiss.downcast_index(inside.storage) if isinstance(inside, faiss.IndexHNSW) else None


def _one_by_one(vectors: Any, queries: np.ndarray, places: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (n, places) of a search that compares each query with each of these rows of an index over plain vectors."""
    rows = np.ascontiguousarray(rows, np.int64)
    scores, found = vectors.search(queries, places, params=SWIG.SearchParameters(sel=SWIG.IDSelectorArray(rows)))
    return scores, found


def _complete(exact: Any, queries: np.ndarray, scores: np.ndarray, found: np.ndarray, rows: np.ndarray | None) -> None:
    """Where a query has fewer results than there are places and rows, put what comparing one by one gives in their place."""
    if rows is None or exact is None:
        return
    lacking = np.flatnonzero((found >= 0).sum(axis=1) < min(found.shape[1], len(rows)))
    if len(lacking):
        scores[lacking], found[lacking] = _one_by_one(exact, queries[lacking], found.shape[1], rows)


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
