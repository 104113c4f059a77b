"""Search a subset of the items, search without re-ranking, and reconstruct stored vectors."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.factory import find_ivf
from indexmill.tasks.indexing.searcher import FAISS_UNTYPED, MAX_EF_SEARCH, Searcher, select_distinct_top_k
from indexmill.tasks.metrics.exact_search import select_top_k

DIRECT_MAP_HASHTABLE = FAISS_UNTYPED.DirectMap.Hashtable
BRUTE_FORCE_MAX = 5000  # items of a shard that are compared one by one with a query, in one or two milliseconds


def search_filtered(
    searcher: Searcher, queries: np.ndarray, k: int, *, allowed_ids: np.ndarray | None = None, rerank: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Search among some items only, or without re-ranking.

    A filtered search returns k items whenever that many are allowed. Up to BRUTE_FORCE_MAX items are compared one by
    one with their stored vectors, if there are any. For more, all inverted lists are visited, because the allowed items
    may be far from the query; a graph is searched with the largest efSearch, and queries for which it returns fewer
    than k items are compared one by one too. Only ids are copied.

    Args:
        searcher: the index.
        queries: float32 (n, dim).
        k: the number of results per query.
        allowed_ids: int64, ascending; None for all items.
        rerank: score candidates by their stored vectors, if the index has them.

    Returns:
        Scores and ids (n, k), as `Searcher.search` returns them.
    """
    if allowed_ids is None and (rerank or not searcher.stores):
        return searcher.search_vectors(queries, k)
    queries = np.ascontiguousarray(queries, np.float32)
    depth = k * searcher.copies_per_item
    results = [_search_shard(searcher, number, queries, depth, allowed_ids, rerank) for number in range(len(searcher.shards))]
    if searcher.copies_per_item > 1:
        results = [select_distinct_top_k(scores, ids, k, higher_is_better=searcher.higher_is_better) for scores, ids in results]
    scores, ids = (np.concatenate(part, axis=1) for part in zip(*results, strict=True))
    return select_top_k(scores, ids, k, higher_is_better=searcher.higher_is_better)


def search_exhaustively(searcher: Searcher, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Compare queries with every vector, as far as the index stores vectors; with every code otherwise.

    For the few queries whose search of some lists, or of a graph, finds too little.

    Returns:
        Scores and ids (n, k), as `Searcher.search_vectors` returns them.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    depth = k * searcher.copies_per_item
    results = [_search_whole_shard(searcher, number, queries, depth) for number in range(len(searcher.shards))]
    if searcher.copies_per_item > 1:
        results = [select_distinct_top_k(scores, ids, k, higher_is_better=searcher.higher_is_better) for scores, ids in results]
    scores, ids = (np.concatenate(part, axis=1) for part in zip(*results, strict=True))
    return select_top_k(scores, ids, k, higher_is_better=searcher.higher_is_better)


def reconstruct_vectors(searcher: Searcher, ids: list[int]) -> np.ndarray:
    """Return the vectors of items as the index stores them: approximations if it stores codes.

    The first call on inverted lists without stored vectors builds a table of the position of each item: at least 16
    bytes per item.

    Args:
        searcher: the index.
        ids: item ids.

    Returns:
        float32 (n, dim).

    Raises:
        KeyError: no shard holds an item; its argument is the id.
    """
    vectors = np.empty((len(ids), searcher.dim), np.float32)
    for position, item in enumerate(ids):
        shard_vectors = (_find_vector(searcher, number, item) for number in range(len(searcher.shards)))
        vector = next((vector for vector in shard_vectors if vector is not None), None)
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
    except RuntimeError:  # how FAISS reports an unknown id
        return None


def _search_shard(
    searcher: Searcher, number: int, queries: np.ndarray, depth: int, allowed_ids: np.ndarray | None, rerank: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and item ids (n, depth) from one shard."""
    index: Any = searcher.shards[number]
    if not searcher.stores:
        return _search_without_store(index, queries, depth, allowed_ids)
    store = searcher.stores[number]
    allowed_rows = None if allowed_ids is None else _find_rows(store.ids, allowed_ids)
    exact: Any = store.index if rerank else _get_graph_vectors(index)
    if allowed_rows is not None and len(allowed_rows) <= BRUTE_FORCE_MAX and exact is not None:
        scores, rows = _brute_force(exact, queries, depth, allowed_rows)
        return scores, store.row_to_id[rows]
    params = _make_filter_params(index, allowed_rows)
    if rerank:
        reranking_params = searcher.get_reranking_params(depth, params)
        scores, rows = searcher.get_reranking_index(number).search(queries, depth, params=reranking_params)
    else:
        scores, rows = index.search(queries, depth, params=params)
    _fill_missing(exact, queries, scores, rows, allowed_rows)
    return scores, store.row_to_id[rows]


def _search_whole_shard(searcher: Searcher, number: int, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and ids (n, depth) among all vectors of one shard."""
    index: Any = searcher.shards[number]
    if searcher.stores:
        store = searcher.stores[number]
        scores, rows = store.index.search(queries, depth)
        return scores, store.row_to_id[rows]
    vectors = _get_graph_vectors(index.index) if isinstance(index, faiss.IndexIDMap) else None
    if vectors is not None:
        scores, rows = vectors.search(queries, depth)
        row_to_id = faiss.rev_swig_ptr(index.id_map.data(), index.ntotal)
        return scores, np.where(rows < 0, -1, row_to_id[rows])
    scores, ids = index.search(queries, depth, params=_make_exhaustive_params(index))
    return scores, ids


def _make_exhaustive_params(index: Any) -> Any:
    """Make FAISS's parameters to visit all inverted lists; None for an index without lists."""
    index = faiss.downcast_index(index.index if isinstance(index, faiss.IndexIDMap) else index)
    if isinstance(index, faiss.IndexPreTransform):
        return FAISS_UNTYPED.SearchParametersPreTransform(index_params=_make_exhaustive_params(faiss.downcast_index(index.index)))
    return FAISS_UNTYPED.SearchParametersIVF(nprobe=index.nlist) if isinstance(index, faiss.IndexIVF) else None


def _search_without_store(index: Any, queries: np.ndarray, depth: int, allowed_ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Search an index that returns item ids. Only a graph has vectors to compare with."""
    exact = _get_graph_vectors(index.index) if allowed_ids is not None and isinstance(index, faiss.IndexIDMap) else None
    if exact is None or allowed_ids is None:
        scores, ids = index.search(queries, depth, params=_make_filter_params(index, allowed_ids))
        return scores, ids
    row_to_id = faiss.rev_swig_ptr(index.id_map.data(), index.ntotal)
    allowed_rows = np.flatnonzero(np.isin(row_to_id, allowed_ids))
    if len(allowed_rows) <= BRUTE_FORCE_MAX:
        scores, rows = _brute_force(exact, queries, depth, allowed_rows)
    else:
        inner = faiss.downcast_index(index.index)
        scores, rows = inner.search(queries, depth, params=_make_filter_params(inner, allowed_rows))
        _fill_missing(exact, queries, scores, rows, allowed_rows)
    return scores, np.where(rows < 0, -1, row_to_id[rows])


def _find_rows(ids: np.ndarray, allowed_ids: np.ndarray) -> np.ndarray:
    """Find the rows of `ids` that hold an allowed id; both int64 and ascending."""
    rows = np.minimum(np.searchsorted(ids, allowed_ids), max(len(ids) - 1, 0))
    return rows[ids[rows] == allowed_ids] if len(ids) else rows[:0]


def _get_graph_vectors(index: Any) -> Any:
    """Return the index over the vectors of a graph; None for other families, whose filtered searches are complete."""
    inner = faiss.downcast_index(index)
    return faiss.downcast_index(inner.storage) if isinstance(inner, faiss.IndexHNSW) else None


def _brute_force(vectors: Any, queries: np.ndarray, depth: int, allowed_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare each query with each of these rows of an index over plain vectors: scores and rows (n, depth)."""
    allowed_rows = np.ascontiguousarray(allowed_rows, np.int64)  # FAISS keeps no copy
    selector = FAISS_UNTYPED.IDSelectorArray(allowed_rows)
    scores, rows = vectors.search(queries, depth, params=FAISS_UNTYPED.SearchParameters(sel=selector))
    return scores, rows


def _fill_missing(exact: Any, queries: np.ndarray, scores: np.ndarray, rows: np.ndarray, allowed_rows: np.ndarray | None) -> None:
    """Replace in place the results of queries that returned fewer than `depth` rows although more are allowed."""
    if allowed_rows is None or exact is None:
        return
    depth = rows.shape[1]
    incomplete = np.flatnonzero((rows >= 0).sum(axis=1) < min(depth, len(allowed_rows)))
    if len(incomplete):
        scores[incomplete], rows[incomplete] = _brute_force(exact, queries[incomplete], depth, allowed_rows)


def _make_filter_params(index: Any, ids: np.ndarray | None) -> Any:
    """Make FAISS's parameters to search an index of any family among these ids; None for no filter."""
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
