"""Search a subset of the items, search without re-ranking, and reconstruct stored vectors."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.factory import find_ivf
from indexmill.tasks.indexing.searcher import FAISS_UNTYPED, MAX_EF_SEARCH, Searcher, select_distinct_top_k, select_top_k

DIRECT_MAP_HASHTABLE = FAISS_UNTYPED.DirectMap.Hashtable
BRUTE_FORCE_MAX = 5000  # items of a shard that are compared with a query one by one: a millisecond or two


def search_filtered(
    searcher: Searcher, queries: np.ndarray, k: int, *, allowed_ids: np.ndarray | None = None, rerank: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """As `Searcher.search`, among the items of `allowed_ids` only (int64 ids, ascending), or by the index's own scores without re-ranking.

    Among some items, all k that there are come back. A FEW are compared one by one with their vectors, where these are at hand. Of more,
    every inverted list is looked at, since the items may lie far from the query; a graph (HNSW) is searched as widely as it can be, and
    where its paths do not lead to k of them, these queries are compared one by one too. Nothing is copied but the ids.
    """
    if allowed_ids is None and (rerank or not searcher.stores):
        return searcher.search(queries, k)
    queries = np.ascontiguousarray(queries, np.float32)
    found = [
        _search_shard(searcher, number, queries, k * searcher.copies_per_item, allowed_ids, rerank)
        for number in range(len(searcher.shards))
    ]
    if searcher.copies_per_item > 1:
        found = [select_distinct_top_k(scores, ids, k, higher_is_better=searcher.higher_is_better) for scores, ids in found]
    scores, ids = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    return select_top_k(scores, ids, k, higher_is_better=searcher.higher_is_better)


def reconstruct_vectors(searcher: Searcher, ids: list[int]) -> np.ndarray:
    """The vectors of items, float32 (n, dim), KeyError for one that no shard holds; as the index keeps them, so codes give approximations.

    The first call on inverted lists without vectors beside them makes a table of where each item lies: 16 bytes an item and more.
    """
    vectors = np.empty((len(ids), searcher.dim), np.float32)
    for position, item in enumerate(ids):
        held = (_find_vector(searcher, number, item) for number in range(len(searcher.shards)))
        vector = next((vector for vector in held if vector is not None), None)
        if vector is None:
            raise KeyError(item)
        vectors[position] = vector
    return vectors


def _find_vector(searcher: Searcher, number: int, item: int) -> np.ndarray | None:
    if searcher.stores:
        store = searcher.stores[number]
        row = int(np.searchsorted(store.ids, item))
        return np.asarray(store.index.reconstruct(row)) if row < len(store.ids) and store.ids[row] == item else None
    index: Any = searcher.shards[number]
    ivf: Any = find_ivf(index)
    if ivf is not None and ivf.direct_map.type != DIRECT_MAP_HASHTABLE:
        ivf.set_direct_map_type(DIRECT_MAP_HASHTABLE)
    try:
        return np.asarray(index.reconstruct(item))
    except RuntimeError:  # FAISS's way of saying that it has no such id
        return None


def _search_shard(
    searcher: Searcher, number: int, queries: np.ndarray, depth: int, allowed_ids: np.ndarray | None, rerank: bool
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Scores and item ids (n, places) of one shard."""
    index: Any = searcher.shards[number]
    if not searcher.stores:
        return _search_without_store(index, queries, depth, allowed_ids)
    store = searcher.stores[number]
    rows = None if allowed_ids is None else _find_rows(store.ids, allowed_ids)
    exact: Any = store.index if rerank else _get_graph_vectors(index)
    if rows is not None and len(rows) <= BRUTE_FORCE_MAX and exact is not None:
        scores, found = _brute_force(exact, queries, depth, rows)
    elif rerank:
        scores, found = searcher.refined(number).search(
            queries, depth, params=searcher.get_reranking_params(depth, _make_filter_params(index, rows))
        )
        _fill_missing(exact, queries, scores, found, rows)
    else:
        scores, found = index.search(queries, depth, params=_make_filter_params(index, rows))
        _fill_missing(exact, queries, scores, found, rows)
    return scores, store.by_row[found]


def _search_without_store(index: Any, queries: np.ndarray, depth: int, allowed_ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """As `_search_shard`, of an index that gives item ids; a graph's own vectors are at hand."""
    exact = _get_graph_vectors(index.index) if allowed_ids is not None and isinstance(index, faiss.IndexIDMap) else None
    if exact is None or allowed_ids is None:
        scores, ids = index.search(queries, depth, params=_make_filter_params(index, allowed_ids))
        return scores, ids
    held = faiss.rev_swig_ptr(index.id_map.data(), index.ntotal)
    rows = np.flatnonzero(np.isin(held, allowed_ids))
    if len(rows) <= BRUTE_FORCE_MAX:
        scores, found = _brute_force(exact, queries, depth, rows)
    else:
        inside = faiss.downcast_index(index.index)
        scores, found = inside.search(queries, depth, params=_make_filter_params(inside, rows))
        _fill_missing(exact, queries, scores, found, rows)
    return scores, np.where(found < 0, -1, held[found])


def _find_rows(ids: np.ndarray, allowed_ids: np.ndarray) -> np.ndarray:
    """The rows, ascending, that hold an id of `allowed_ids`; both int64 and ascending."""
    rows = np.minimum(np.searchsorted(ids, allowed_ids), max(len(ids) - 1, 0))
    return rows[ids[rows] == allowed_ids] if len(ids) else rows[:0]


def _get_graph_vectors(index: Any) -> Any:
    """The index over the vectors between which a graph leads; None for other families, in which nothing is lost on the way."""
    inside = faiss.downcast_index(index)
    return faiss.downcast_index(inside.storage) if isinstance(inside, faiss.IndexHNSW) else None


def _brute_force(vectors: Any, queries: np.ndarray, depth: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows (n, places) of a search that compares each query with each of these rows of an index over plain vectors."""
    rows = np.ascontiguousarray(rows, np.int64)
    scores, found = vectors.search(queries, depth, params=FAISS_UNTYPED.SearchParameters(sel=FAISS_UNTYPED.IDSelectorArray(rows)))
    return scores, found


def _fill_missing(exact: Any, queries: np.ndarray, scores: np.ndarray, found: np.ndarray, rows: np.ndarray | None) -> None:
    """Where a query has fewer results than there are places and rows, put what comparing one by one gives in their place."""
    if rows is None or exact is None:
        return
    lacking = np.flatnonzero((found >= 0).sum(axis=1) < min(found.shape[1], len(rows)))
    if len(lacking):
        scores[lacking], found[lacking] = _brute_force(exact, queries[lacking], found.shape[1], rows)


def _make_filter_params(index: Any, ids: np.ndarray | None) -> Any:
    """FAISS's parameters for a search among these ids of an index, whatever family it is."""
    if ids is None:
        return None
    index = faiss.downcast_index(index.index if isinstance(index, faiss.IndexIDMap) else index)
    if isinstance(index, faiss.IndexPreTransform):
        return FAISS_UNTYPED.SearchParametersPreTransform(index_params=_make_filter_params(faiss.downcast_index(index.index), ids))
    selector: Any = FAISS_UNTYPED.IDSelectorBatch(ids.astype(np.int64))
    if isinstance(index, faiss.IndexIVF):
        return FAISS_UNTYPED.SearchParametersIVF(sel=selector, nprobe=index.nlist)
    if isinstance(index, faiss.IndexHNSW):
        return FAISS_UNTYPED.SearchParametersHNSW(sel=selector, efSearch=MAX_EF_SEARCH)
    return FAISS_UNTYPED.SearchParameters(sel=selector)
