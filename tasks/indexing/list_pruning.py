"""Search the lists that come near the best ones only, and re-rank every candidate once.

The nearest nprobe lists of a query are not equally promising. A query inside one cluster has its neighbors in a few of them,
one between clusters needs them all. So a list is left out if its centroid scores more than `probe_margin` below the
mean of the ANCHOR_LISTS best ones, and nprobe can be larger at the same cost. docs/decisions.md has the measurements.

FAISS's own re-ranking (`IndexRefine`) chooses the lists itself, and scores an item twice that two visited lists hold.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.factory import find_ivf
from indexmill.tasks.indexing.reranking import VectorStore
from indexmill.tasks.metrics.exact_search import select_top_k

FAISS_UNTYPED: Any = faiss  # the types of its parameter classes lack their keywords
ANCHOR_LISTS = 4


def supports_pruning(index: faiss.Index, store: VectorStore) -> bool:
    """Whether an index has lists, and the store float32 vectors, which FAISS scores without re-ranking an index."""
    return find_ivf(index) is not None and isinstance(store.index, faiss.IndexFlat)


class PrunedSearch:
    """A search of one shard that supports it.

    Args:
        index: an IVF index, numbered by row; linear transforms may precede it.
        store: its stored vectors.
    """

    def __init__(self, index: Any, store: VectorStore) -> None:
        chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
        self._transforms: list[Any] = [faiss.downcast_VectorTransform(chain.at(number)) for number in range(chain.size())] if chain else []
        ivf: Any = find_ivf(index)  # typed here, since mypy would narrow an attribute to what is assigned
        vectors: Any = store.index
        self._ivf, self._store, self._vectors = ivf, store, vectors
        self._quantizer: Any = faiss.downcast_index(ivf.quantizer)
        self._higher_is_better = index.metric_type == faiss.METRIC_INNER_PRODUCT
        self._params: dict[int, Any] = {}

    def search(self, queries: np.ndarray, k: int, *, candidates: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best items of each query.

        Args:
            queries: float32 (n, dim), contiguous.
            k: the number of results per query.
            candidates: the number of entries to re-rank per query, at least k per list that an item is in.
            margin: how much worse than the best lists a list may score. Queries with fewer than k results visit all nprobe
                lists.

        Returns:
            Scores float32 (n, k) and item ids int64 (n, k), best first, ties by ascending id. Ranks beyond the last
            result have id -1.
        """
        if len(queries) == 1:
            return self._search_one(queries, k, candidates, margin)
        projected, list_scores, lists = self._find_lists(queries)
        is_far = ~self._mark_near(list_scores, margin)
        lists[is_far] = -1  # FAISS skips it
        rows = self._scan_lists(projected, list_scores, lists, lists.shape[1], candidates)
        scores, ids = self._rerank(queries, rows, k)
        incomplete = np.flatnonzero((ids[:, -1] < 0) & is_far.any(axis=1))
        if len(incomplete):
            scores[incomplete], ids[incomplete] = self.search(queries[incomplete], k, candidates=candidates, margin=np.inf)
        return scores, ids

    def _search_one(self, query: np.ndarray, k: int, candidates: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
        """Search for one query: the same results in fewer steps, since each costs as much as scanning a list."""
        projected, list_scores, lists = self._find_lists(query)
        values = list_scores[0].tolist()
        anchors = values[:ANCHOR_LISTS]
        limit = sum(anchors) / len(anchors)
        if self._higher_is_better:
            probes = sum(value >= limit - margin for value in values)
        else:
            probes = sum(value <= limit + margin for value in values)
        rows = self._scan_lists(projected, list_scores, lists, probes, candidates)[0]
        rows.sort()
        is_new = np.empty(len(rows), bool)
        np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
        is_new[0] = True
        rows = rows[is_new]
        if rows[0] < 0:
            rows = rows[1:]
        if len(rows) < k and probes < len(values):
            return self._search_one(query, k, candidates, np.inf)
        if len(rows) < k:
            return self._rerank(query, rows[None], k)
        scores = self._score(query, rows[None])[0]
        order = (-scores if self._higher_is_better else scores).argsort(kind="stable")[:k]  # rows ascend, and so do ids
        return scores[order][None], self._store.row_to_id[rows[order]][None]

    def measure_margins(self, queries: np.ndarray) -> np.ndarray:
        """Return the margin at which each query visits all nprobe lists, float32 (n,)."""
        scores = self._find_lists(np.ascontiguousarray(queries, np.float32))[1]
        return np.abs(scores[:, :ANCHOR_LISTS].mean(axis=1) - scores[:, -1])

    def _find_lists(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the queries as the lists see them, and the scores and numbers of their nprobe nearest lists, (n, nprobe)."""
        for transform in self._transforms:
            projected = np.empty((len(queries), transform.d_out), np.float32)
            transform.apply_noalloc(len(queries), faiss.swig_ptr(queries), faiss.swig_ptr(projected))
            queries = projected
        scores = np.empty((len(queries), self._ivf.nprobe), np.float32)
        lists = np.empty(scores.shape, np.int64)
        self._quantizer.search_c(len(queries), faiss.swig_ptr(queries), scores.shape[1], faiss.swig_ptr(scores), faiss.swig_ptr(lists))
        return queries, scores, lists

    def _mark_near(self, scores: np.ndarray, margin: float) -> np.ndarray:
        """Mark the lists within the margin, bool (n, nprobe)."""
        anchors = scores[:, :ANCHOR_LISTS].mean(axis=1, keepdims=True)
        return np.asarray(scores >= anchors - margin if self._higher_is_better else scores <= anchors + margin)

    def _scan_lists(self, queries: np.ndarray, scores: np.ndarray, lists: np.ndarray, probes: int, depth: int) -> np.ndarray:
        """Return the rows of the best entries by their codes, int64 (n, depth). With n = 1, only `probes` lists are visited."""
        if probes not in self._params:
            self._params[probes] = FAISS_UNTYPED.IVFSearchParameters(nprobe=probes)
        distances, rows = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
        arrays = [faiss.swig_ptr(array) for array in (lists, scores, distances, rows)]
        self._ivf.search_preassigned_c(len(queries), faiss.swig_ptr(queries), depth, *arrays, False, self._params[probes])
        return rows

    def _rerank(self, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank each query's distinct rows (-1: none) by the stored vectors, and return the scores and ids of the k best."""
        rows.sort(axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        scores = self._score(queries, rows)
        best_scores, best_rows = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
        heaps: Any = faiss.float_minheap_array_t() if self._higher_is_better else faiss.float_maxheap_array_t()
        heaps.nh, heaps.k, heaps.val, heaps.ids = len(rows), k, faiss.swig_ptr(best_scores), faiss.swig_ptr(best_rows)
        heaps.heapify()
        heaps.addn_with_ids(rows.shape[1], faiss.swig_ptr(scores), faiss.swig_ptr(rows), rows.shape[1], 0, len(rows))
        heaps.reorder()
        best_scores[best_rows < 0] = -np.inf if self._higher_is_better else np.inf
        ids = self._store.row_to_id[best_rows]
        if (best_scores[:, 1:] == best_scores[:, :-1]).any():
            return select_top_k(best_scores, ids, k, higher_is_better=self._higher_is_better)
        return best_scores, ids

    def _score(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Score each query's rows by the stored vectors, float32 (n, m); rows of -1 get the worst score."""
        scores = np.empty(rows.shape, np.float32)
        arrays = [faiss.swig_ptr(array) for array in (scores, rows)]
        self._vectors.compute_distance_subset(len(queries), faiss.swig_ptr(queries), rows.shape[1], *arrays)
        return scores
