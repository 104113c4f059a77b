"""Searching a set of shards as one index."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from tasks.indexes.factory import METRICS, widen_search

# Below this many queries times vectors FAISS compares pair by pair, above it multiplies matrices. Its own value, 128000, makes
# batches of up to a few hundred queries several times slower than they need be.
BLAS_THRESHOLD = 20


class Searcher:
    """Loaded shards, searched together. Vectors are float32 of `dim` numbers; for the cosine metric they have length 1."""

    def __init__(self, shards: Sequence[faiss.Index], metric: str, *, nprobe: int | None = None, ef_search: int | None = None) -> None:
        self.shards, self.metric = list(shards), METRICS[metric]
        self.dim = self.shards[0].d
        for shard in self.shards:
            widen_search(shard, nprobe, ef_search)

    @property
    def items(self) -> int:
        """Vectors in all shards."""
        return sum(int(shard.ntotal) for shard in self.shards)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each query: scores float32 (n, k) and item ids int64 (n, k), best first, equals by ascending id.

        A score is FAISS's own: inner product (larger is better) or squared Euclidean distance (smaller is better). Where fewer than
        k items were found, the id is -1.
        """
        if len(queries) > 1:
            faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
        found = [shard.search(np.ascontiguousarray(queries, dtype=np.float32), k) for shard in self.shards]
        scores = np.concatenate([score for score, _ in found], axis=1)
        return best(scores, np.concatenate([ids for _, ids in found], axis=1), k, larger=self.metric == faiss.METRIC_INNER_PRODUCT)


def best(scores: np.ndarray, ids: np.ndarray, k: int, *, larger: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row (n, m): by score, then by ascending id, empty places (id -1) last."""
    keys = np.where(ids < 0, np.inf, -scores if larger else scores)
    order = np.lexsort((ids, keys), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
