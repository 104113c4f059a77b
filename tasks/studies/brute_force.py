"""Brute-force search in NumPy as people usually write it: a matrix product, a partial sort, and a sort of the k best."""

from __future__ import annotations

import faiss
import numpy as np

from indexmill.tasks.indexing.chunk_search import ChunkMap, find_best_chunks

MAX_SCORES_PER_BLOCK = 1 << 24  # 64 MB of scores, and twice as much for column numbers


class BruteForce:
    """Exact search over an array of vectors. Scores are FAISS's: inner products, or squared Euclidean distances.

    A block of queries computes at most MAX_SCORES_PER_BLOCK scores, or those of one query.
    """

    def __init__(self, ids: np.ndarray, database: np.ndarray, metric: int, chunks: ChunkMap | None = None) -> None:
        """Take the vectors.

        Args:
            ids: int64 (n,), ascending.
            database: float32 (n, dim), possibly memory-mapped.
            metric: A FAISS metric type.
            chunks: The item of each vector, if items have several; `search` then returns items.
        """
        self.ids, self.database, self.chunks = ids, database, chunks
        self.higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
        self._squares = None if self.higher_is_better else np.einsum("ij,ij->i", database, database)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 (n, k) and item ids int64 (n, k), best first, ties by ascending id; k is at most the number of items."""
        if self.chunks is None:
            return self._search_vectors(queries, k)
        total, higher_is_better = len(self.ids), self.higher_is_better
        scores, ids = find_best_chunks(self._search_vectors, self.chunks, queries, k, total, higher_is_better=higher_is_better)
        return scores, self.chunks.find_items(ids)

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, MAX_SCORES_PER_BLOCK // len(self.ids))
        parts = [self._search_block(queries[start : start + step], k) for start in range(0, len(queries), step)]
        scores, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return scores, self.ids[rows]

    def _search_block(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        products = queries @ self.database.T
        if self._squares is None:
            keys, rows = select_smallest(np.negative(products, out=products), k)
            return -keys, rows
        keys, rows = select_smallest(self._squares - 2 * products, k)
        return keys + np.einsum("ij,ij->i", queries, queries)[:, None], rows


def select_smallest(keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k smallest keys of each row (n, m), k <= m, ascending, and their columns int64 (n, k); ties by ascending column."""
    last = [k - 1] if k == keys.shape[1] else [k - 1, k]
    partitioned = np.argpartition(keys, last, axis=1)[:, : k + 1]
    columns, values = partitioned[:, :k], np.take_along_axis(keys, partitioned, axis=1)
    if k < keys.shape[1]:
        # If the k-th key ties with the next one, the partial sort picked arbitrarily among the ties.
        for row in np.flatnonzero(values[:, k - 1] == values[:, k]):
            tied_or_smaller = np.flatnonzero(keys[row] <= values[row, k])
            columns[row] = tied_or_smaller[np.argsort(keys[row, tied_or_smaller], kind="stable")[:k]]
    smallest = np.take_along_axis(keys, columns, axis=1)
    order = np.lexsort((columns, smallest), axis=1)
    return np.take_along_axis(smallest, order, axis=1), np.take_along_axis(columns, order, axis=1)
