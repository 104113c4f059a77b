"""Searching a set of shards as one index."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from tasks.indexes.factory import METRICS, widen_search
from tasks.indexes.rerank import Store, by_row, refined

# Below this many queries times vectors FAISS compares pair by pair, above it multiplies matrices. Its own value makes batches of up to a
# few hundred queries several times slower than they need be; for a single query pair by pair is right.
BLAS_THRESHOLD = 20
NO_BLAS = faiss.cvar.distance_compute_blas_threshold
CANDIDATES = 50  # re-ranked a query, unless asked for more


class Searcher:
    """Loaded shards, searched together. Vectors are float32 of `dim` numbers; for the cosine metric they have length 1.

    stores: the vectors of each shard, from which the best `candidates` of each shard are scored again; the shards then belong to the
    searcher, which renumbers them. spill: every item lies twice in its shard, so a candidate may come twice.
    """

    def __init__(
        self,
        shards: Sequence[faiss.Index],
        metric: str,
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        stores: Sequence[Store] = (),
        candidates: int | None = None,
        spill: bool = False,
    ) -> None:
        self.metric, self.stores, self.copies = METRICS[metric], list(stores), 1 + spill
        self.larger = self.metric == faiss.METRIC_INNER_PRODUCT
        self.dim = shards[0].d
        self.shards = [by_row(shard, store.ids) for shard, store in zip(shards, stores, strict=True)] if stores else list(shards)
        self._refined = [refined(shard, store) for shard, store in zip(self.shards, self.stores, strict=False)]
        self.widen(nprobe=nprobe, ef_search=ef_search, candidates=candidates)

    @property
    def items(self) -> int:
        """Items in all shards."""
        return sum(int(shard.ntotal) for shard in self.shards) // self.copies

    def widen(self, *, nprobe: int | None = None, ef_search: int | None = None, candidates: int | None = None) -> None:
        """Set how much a search looks at; what is left out has its default (see `widen_search`; CANDIDATES)."""
        self.candidates = candidates or CANDIDATES
        for shard in self.shards:
            widen_search(shard, nprobe, ef_search)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each query: scores float32 (n, k) and item ids int64 (n, k), best first, equals by ascending id.

        A score is FAISS's own: inner product (larger is better) or squared Euclidean distance (smaller is better). Where fewer than
        k items were found, the id is -1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD if len(queries) > 1 else NO_BLAS
        found = [self._search(number, queries, k) for number in range(len(self.shards))]
        scores, ids = found[0] if len(found) == 1 else (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        return best(scores, ids, k, larger=self.larger, unique=self.copies > 1)

    def _search(self, number: int, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and item ids from one shard; of copies enough that k items are among them."""
        places = k * self.copies
        if not self.stores:
            return self.shards[number].search(queries, places)
        index = self._refined[number]
        # FAISS takes the candidates as a multiple of the places and rounds down.
        index.k_factor = max(self.candidates + 0.5, places) / places
        scores = np.empty((len(queries), places), np.float32)
        rows = np.empty((len(queries), places), np.int64)
        # Past FAISS's Python wrapper, which costs a single query several microseconds.
        index.search_c(len(queries), faiss.swig_ptr(queries), places, faiss.swig_ptr(scores), faiss.swig_ptr(rows))
        return scores, np.where(rows < 0, -1, self.stores[number].ids[rows])


def best(scores: np.ndarray, ids: np.ndarray, k: int, *, larger: bool, unique: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row (n, m): by score, then by ascending id, empty places (id -1) last.

    unique: an id that comes twice in a row, with one score, counts once; empty places fill the row then, so k is what comes out.
    """
    keys = np.where(ids < 0, np.inf, -scores if larger else scores)
    order = np.lexsort((ids, keys), axis=1)
    if not unique:
        order = order[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
    kept = ids >= 0
    kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    places = np.cumsum(kept, axis=1)
    kept &= places <= k
    rows, columns = np.nonzero(kept)
    out = (np.full((len(ids), k), -np.inf if larger else np.inf, np.float32), np.full((len(ids), k), -1, np.int64))
    out[0][rows, places[rows, columns] - 1] = scores[rows, columns]
    out[1][rows, places[rows, columns] - 1] = ids[rows, columns]
    return out
