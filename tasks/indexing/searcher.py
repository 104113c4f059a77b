"""Searching a set of shards as one index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf, set_index_search_params, unwrap_id_map
from indexmill.tasks.indexing.reranking import VectorStore, by_row, refined

# Below this many queries times vectors FAISS compares pair by pair, above it multiplies matrices. Its own value makes batches of up to a
# few hundred queries several times slower than they need be; for a single query pair by pair is right.
BATCH_BLAS_THRESHOLD = 20
FAISS_UNTYPED: Any = faiss  # its classes of parameters have types that know nothing of their keywords
DEFAULT_BLAS_THRESHOLD = faiss.cvar.distance_compute_blas_threshold
MAX_EF_SEARCH = 4096
DEFAULT_RERANK_CANDIDATES = 50  # re-ranked a query, unless asked for more


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let FAISS use one thread of this caller's. A tenth of a millisecond is not worth sharing: where other work takes a core, the threads
    of one query wait for each other, 8 ms instead of 0.1 ms.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def use_single_thread() -> None:
    """Let FAISS use one thread from now on where this thread calls it: for threads that search beside each other.

    Threads of OpenMP wait for each other at every step of a search, and wait by spinning. Where other work takes a core, that is most of
    what they do, and it takes the core from that work.
    """
    faiss.omp_set_num_threads(1)


class Searcher:
    """Loaded shards, searched together. Vectors are float32 of `dim` numbers; for the cosine metric they have length 1.

    stores: the vectors of each shard, from which the best `rerank_candidates` of each shard are scored again; the shards then belong to the
    searcher, which renumbers them. spill: every item lies twice in its shard, so a candidate may come twice. Several threads may search
    at once; only the last bits of a score can depend on it.
    """

    def __init__(
        self,
        shards: Sequence[faiss.Index],
        metric: str,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        stores: Sequence[VectorStore] = (),
        rerank_candidates: int | None = None,
        spill: bool = False,
    ) -> None:
        self.metric, self.stores, self.copies_per_item = FAISS_METRICS[metric], list(stores), 1 + spill
        self.higher_is_better = self.metric == faiss.METRIC_INNER_PRODUCT
        self.dim = shards[0].d
        self.shards = [by_row(shard, store.ids) for shard, store in zip(shards, stores, strict=True)] if stores else list(shards)
        self._reranking_indexes = [refined(shard, store) for shard, store in zip(self.shards, self.stores, strict=False)]
        self.set_search_params(nprobe=nprobe, ef_search=ef_search, rerank_candidates=rerank_candidates)

    @property
    def items(self) -> int:
        """Items in all shards."""
        return sum(int(shard.ntotal) for shard in self.shards) // self.copies_per_item

    @property
    def width(self) -> tuple[str, int]:
        """What says how widely a search looks, and its largest value: `nprobe` or `ef_search`; nothing ("", 1) for a family without."""
        ivf = find_ivf(self.shards[0])
        if ivf is not None:
            return "nprobe", int(ivf.nlist)
        inner = unwrap_id_map(self.shards[0])
        return ("ef_search", MAX_EF_SEARCH) if isinstance(inner, faiss.IndexHNSW) else ("", 1)

    @property
    def search_param_value(self) -> int:
        """The value of `width` that a search looks at now."""
        if (ivf := find_ivf(self.shards[0])) is not None:
            return int(ivf.nprobe)
        inner = unwrap_id_map(self.shards[0])
        return int(inner.hnsw.efSearch) if isinstance(inner, faiss.IndexHNSW) else 1

    def set_search_params(self, *, nprobe: int | None = None, ef_search: int | None = None, rerank_candidates: int | None = None) -> None:
        """Set how much a search looks at; what is left out has its default (see `set_index_search_params`; CANDIDATES)."""
        self.rerank_candidates = rerank_candidates or DEFAULT_RERANK_CANDIDATES
        self._reranking_params: dict[int, Any] = {}
        for shard in self.shards:
            set_index_search_params(shard, nprobe, ef_search)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each query: scores float32 (n, k) and item ids int64 (n, k), best first, equals by ascending id.

        A score is FAISS's own: inner product (larger is better) or squared Euclidean distance (smaller is better). Where fewer than
        k items were found, the id is -1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if len(queries) == 1:
            faiss.cvar.distance_compute_blas_threshold = DEFAULT_BLAS_THRESHOLD
            with single_threaded():
                return self._search_all(queries, k)
        faiss.cvar.distance_compute_blas_threshold = BATCH_BLAS_THRESHOLD
        return self._search_all(queries, k)

    def _search_all(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = [self._search_shard(number, queries, k) for number in range(len(self.shards))]
        if self.copies_per_item > 1:
            found = [select_distinct_top_k(scores, ids, k, higher_is_better=self.higher_is_better) for scores, ids in found]
            if len(found) == 1:
                return found[0]
        scores, ids = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        return select_top_k(scores, ids, k, higher_is_better=self.higher_is_better)

    def refined(self, number: int) -> Any:
        """A shard and its vectors as one FAISS index, where candidates are ranked again."""
        return self._reranking_indexes[number]

    def get_reranking_params(self, depth: int, within: Any = None) -> Any:
        """FAISS's parameters for ranking candidates again, as many as are looked at for so many places.

        within: parameters that narrow the search; those without are made once and never changed.
        """
        if within is None and depth in self._reranking_params:
            return self._reranking_params[depth]
        # FAISS takes the candidates as a multiple of the places and rounds down.
        made = FAISS_UNTYPED.IndexRefineSearchParameters(
            k_factor=max(self.rerank_candidates + 0.5, depth) / depth, base_index_params=within
        )
        if within is None:
            self._reranking_params[depth] = made
        return made

    def _search_shard(self, number: int, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and item ids from one shard; of copies enough that k items are among them."""
        depth = k * self.copies_per_item
        if not self.stores:
            return self.shards[number].search(queries, depth)
        index = self._reranking_indexes[number]
        scores = np.empty((len(queries), depth), np.float32)
        rows = np.empty((len(queries), depth), np.int64)
        # Past FAISS's Python wrapper, which costs a single query several microseconds.
        index.search_c(
            len(queries), faiss.swig_ptr(queries), depth, faiss.swig_ptr(scores), faiss.swig_ptr(rows), self.get_reranking_params(depth)
        )
        return scores, self.stores[number].by_row[rows]


def select_top_k(scores: np.ndarray, ids: np.ndarray, k: int, *, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row (n, m): by score, then by ascending id, empty places (id -1) last."""
    keys = np.where(ids < 0, np.inf, -scores if higher_is_better else scores)
    order = np.lexsort((ids, keys), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def select_distinct_top_k(scores: np.ndarray, ids: np.ndarray, k: int, *, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each row (n, m), m >= k, best first as FAISS gives them, where an id may come twice with one score and counts once.

    Equals stand by ascending id; places without an item have id -1 and the worst score.
    """
    first = _mark_first_occurrences(ids)
    # Where more scores than ids are equal to their neighbour, different items tie and may stand in any order.
    if np.count_nonzero(scores[:, 1:] != scores[:, :-1]) != np.count_nonzero(first) - len(ids):
        scores, ids = select_top_k(scores, ids, ids.shape[1], higher_is_better=higher_is_better)
        first = _mark_first_occurrences(ids)
    if len(ids) == 1:  # as below, in a quarter of the time
        columns = np.flatnonzero(first[0])[:k]
        if len(columns) == k and ids[0, columns[-1]] >= 0:
            return scores.take(columns, axis=1), ids.take(columns, axis=1)
    order = np.argsort(~first, axis=1, kind="stable")[:, :k]
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    empty = ~np.take_along_axis(first, order, axis=1) | (ids < 0)
    scores[empty], ids[empty] = -np.inf if higher_is_better else np.inf, -1
    return scores, ids


def _mark_first_occurrences(ids: np.ndarray) -> np.ndarray:
    """Whether each id differs from the one before it in its row, bool (n, m)."""
    first = np.ones(ids.shape, bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=first[:, 1:])
    return first
