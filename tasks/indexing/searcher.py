"""Search a set of shards as one index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf, set_index_search_params, unwrap_id_map
from indexmill.tasks.indexing.reranking import VectorStore, make_reranking_index, renumber_by_row
from indexmill.tasks.metrics.exact_search import BATCH_BLAS_THRESHOLD, select_top_k

FAISS_UNTYPED: Any = faiss  # the types of its parameter classes lack their keywords
DEFAULT_BLAS_THRESHOLD = faiss.cvar.distance_compute_blas_threshold
DEFAULT_PARAMS = SearchParams()
DEFAULT_RERANK_CANDIDATES = 50  # per query
MAX_EF_SEARCH = 4096


class Searcher:
    """Loaded shards that are searched together.

    Vectors are float32 of `dim` numbers, normalized for the cosine metric. Several threads may search at once, which
    changes at most the last bits of a score.
    """

    def __init__(
        self,
        shards: Sequence[faiss.Index],
        metric: str,
        params: SearchParams = DEFAULT_PARAMS,
        *,
        stores: Sequence[VectorStore] = (),
    ) -> None:
        """Take over the shards.

        Args:
            shards: one FAISS index per shard.
            metric: cosine, ip or l2.
            params: the search parameters. `spill` must be as the shards were built: every item then has two entries in
                its shard.
            stores: the stored vectors of each shard, which re-rank its best candidates. The shards then belong to the
                searcher, which renumbers them by row.
        """
        self.metric, self.stores, self.copies_per_item = FAISS_METRICS[metric], list(stores), 1 + params.spill
        self.higher_is_better = self.metric == faiss.METRIC_INNER_PRODUCT
        self.dim = shards[0].d
        self.shards = [renumber_by_row(shard, store.ids) for shard, store in zip(shards, stores, strict=True)] if stores else list(shards)
        self._reranking_indexes = [make_reranking_index(shard, store) for shard, store in zip(self.shards, self.stores, strict=False)]
        self.set_search_params(params)

    @property
    def items(self) -> int:
        """The number of items in all shards."""
        return self.vectors

    @property
    def vectors(self) -> int:
        """The number of distinct vectors in all shards."""
        return sum(int(shard.ntotal) for shard in self.shards) // self.copies_per_item

    @property
    def search_param(self) -> str:
        """The parameter that sets how much a search visits: `nprobe` or `ef_search`; empty for families without one."""
        if find_ivf(self.shards[0]) is not None:
            return "nprobe"
        return "ef_search" if isinstance(unwrap_id_map(self.shards[0]), faiss.IndexHNSW) else ""

    @property
    def search_param_max(self) -> int:
        """The largest value of `search_param`; 1 for families without one."""
        if (ivf := find_ivf(self.shards[0])) is not None:
            return int(ivf.nlist)
        return MAX_EF_SEARCH if self.search_param else 1

    @property
    def search_param_value(self) -> int:
        """The current value of `search_param`; 1 for families without one."""
        if (ivf := find_ivf(self.shards[0])) is not None:
            return int(ivf.nprobe)
        inner = unwrap_id_map(self.shards[0])
        return int(inner.hnsw.efSearch) if isinstance(inner, faiss.IndexHNSW) else 1

    def set_search_params(self, params: SearchParams) -> None:
        """Set how much a search visits.

        Unset parameters have defaults (`set_index_search_params`, DEFAULT_RERANK_CANDIDATES).
        """
        self.params = params.model_copy(update={"spill": self.copies_per_item > 1})  # as the shards were built
        self.rerank_candidates = params.rerank_candidates or DEFAULT_RERANK_CANDIDATES
        self._reranking_params: dict[int, Any] = {}
        for shard in self.shards:
            set_index_search_params(shard, params.nprobe, params.ef_search)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best items of each query.

        Args:
            queries: float32 (n, dim).
            k: the number of results per query.

        Returns:
            Scores float32 (n, k) and item ids int64 (n, k), best first, ties by ascending id. A score is FAISS's own:
            inner product (higher is better) or squared Euclidean distance (lower is better). Ranks beyond the last
            result have id -1.
        """
        return self.search_vectors(queries, k)

    def search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best vectors of each query: the same as `search`, unless items have several vectors."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if len(queries) == 1:
            faiss.cvar.distance_compute_blas_threshold = DEFAULT_BLAS_THRESHOLD
            with _single_threaded():
                return self._search_shards(queries, k)
        faiss.cvar.distance_compute_blas_threshold = BATCH_BLAS_THRESHOLD
        return self._search_shards(queries, k)

    def get_reranking_index(self, number: int) -> Any:
        """Return a shard and its stored vectors as one FAISS index that re-ranks."""
        return self._reranking_indexes[number]

    def get_reranking_params(self, depth: int, base_params: Any = None) -> Any:
        """Return FAISS's parameters for re-ranking.

        Args:
            depth: the number of results per query.
            base_params: FAISS's parameters for the search that finds the candidates. Without them, the result
                is cached.
        """
        if base_params is None and depth in self._reranking_params:
            return self._reranking_params[depth]
        # FAISS takes the number of candidates as a multiple of the number of results, and rounds down.
        params = FAISS_UNTYPED.IndexRefineSearchParameters(
            k_factor=max(self.rerank_candidates + 0.5, depth) / depth, base_index_params=base_params
        )
        if base_params is None:
            self._reranking_params[depth] = params
        return params

    def _search_shards(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        results = [self._search_shard(number, queries, k) for number in range(len(self.shards))]
        if self.copies_per_item > 1:
            results = [select_distinct_top_k(scores, ids, k, higher_is_better=self.higher_is_better) for scores, ids in results]
            if len(results) == 1:
                return results[0]
        scores, ids = (np.concatenate(part, axis=1) for part in zip(*results, strict=True))
        return select_top_k(scores, ids, k, higher_is_better=self.higher_is_better)

    def _search_shard(self, number: int, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and item ids from one shard: enough copies to include k items."""
        depth = k * self.copies_per_item
        if not self.stores:
            return self.shards[number].search(queries, depth)
        index = self._reranking_indexes[number]
        scores = np.empty((len(queries), depth), np.float32)
        rows = np.empty((len(queries), depth), np.int64)
        # search_c bypasses FAISS's Python wrapper, which costs a single query several microseconds.
        index.search_c(
            len(queries), faiss.swig_ptr(queries), depth, faiss.swig_ptr(scores), faiss.swig_ptr(rows), self.get_reranking_params(depth)
        )
        return scores, self.stores[number].row_to_id[rows]


def use_single_thread() -> None:
    """Let FAISS use one thread from now on in calls from this thread, for threads that search at the same time.

    OpenMP's threads wait for each other by spinning at every step of a search. When other work takes a core, they spend
    most of their time waiting, and take cores from that work.
    """
    faiss.omp_set_num_threads(1)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Let FAISS use one thread while the block runs.

    A search of a tenth of a millisecond does not pay off on several threads: when other work takes a core, they wait
    for each other, and 0.1 ms becomes 8 ms.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def select_distinct_top_k(scores: np.ndarray, ids: np.ndarray, k: int, *, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Select the k best distinct items of each row, ties by ascending id.

    Args:
        scores: (n, m), m >= k, best first.
        ids: item ids (n, m); an id may occur twice, with equal scores.
        k: the number of items.
        higher_is_better: the direction of the scores.

    Returns:
        Scores and ids (n, k); empty ranks have id -1 and the worst score.
    """
    is_first = _mark_first_occurrences(ids)
    # More equal neighbors among the scores than among the ids: different items tie, so their order is arbitrary.
    if np.count_nonzero(scores[:, 1:] != scores[:, :-1]) != np.count_nonzero(is_first) - len(ids):
        scores, ids = select_top_k(scores, ids, ids.shape[1], higher_is_better=higher_is_better)
        is_first = _mark_first_occurrences(ids)
    if len(ids) == 1:  # the same result as below, in a quarter of the time
        columns = np.flatnonzero(is_first[0])[:k]
        if len(columns) == k and ids[0, columns[-1]] >= 0:
            return scores.take(columns, axis=1), ids.take(columns, axis=1)
    order = np.argsort(~is_first, axis=1, kind="stable")[:, :k]
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    is_empty = ~np.take_along_axis(is_first, order, axis=1) | (ids < 0)
    scores[is_empty], ids[is_empty] = -np.inf if higher_is_better else np.inf, -1
    return scores, ids


def _mark_first_occurrences(ids: np.ndarray) -> np.ndarray:
    """Mark the ids that differ from the one before them in their row, bool (n, m)."""
    is_first = np.ones(ids.shape, bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=is_first[:, 1:])
    return is_first
