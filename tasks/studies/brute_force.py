"""Brute force as one writes it in NumPy: a matrix product, a partial sort, and the sort of the few that are left."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np

MAX_SCORES_PER_BLOCK = 1 << 24  # 64 MB of scores, and twice that of places


class BruteForce:
    """Exact search over vectors in a mapped file. Scores are FAISS's: inner products, or squared Euclidean distances.

    ids: int64 (n,), ascending; database: float32 (n, dim). A block of queries holds SCORES_AT_ONCE scores, or those of one query.
    """

    def __init__(self, ids: np.ndarray, database: np.ndarray, metric: int) -> None:
        self.ids, self.database = ids, database
        self.higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
        self._squares = None if self.higher_is_better else np.einsum("ij,ij->i", database, database)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 (n, k) and item ids int64 (n, k), best first, equals by ascending id; k is at most the items there are."""
        step = max(1, MAX_SCORES_PER_BLOCK // len(self.ids))
        parts = [self._search_block(queries[start : start + step], k) for start in range(0, len(queries), step)]
        scores, rows = (np.concatenate(side) for side in zip(*parts, strict=True))
        return scores, self.ids[rows]

    def _search_block(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        products = queries @ self.database.T
        if self._squares is None:
            keys, rows = select_smallest(np.negative(products, out=products), k)
            return -keys, rows
        keys, rows = select_smallest(self._squares - 2 * products, k)
        return keys + np.einsum("ij,ij->i", queries, queries)[:, None], rows


def select_smallest(keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row (n, m), k <= m, ascending, and their columns int64 (n, k); equals by ascending column."""
    last = [k - 1] if k == keys.shape[1] else [k - 1, k]
    columns_unsorted = np.argpartition(keys, last, axis=1)[:, : k + 1]
    columns, values = columns_unsorted[:, :k], np.take_along_axis(keys, columns_unsorted, axis=1)
    if k < keys.shape[1]:
        # Where the last one in ties with the first one out, the partial sort took any of the equals.
        for row in np.flatnonzero(values[:, k - 1] == values[:, k]):
            near = np.flatnonzero(keys[row] <= values[row, k])
            columns[row] = near[np.argsort(keys[row, near], kind="stable")[:k]]
    found = np.take_along_axis(keys, columns, axis=1)
    order = np.lexsort((columns, found), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(columns, order, axis=1)


def write_memmap(blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: int, dim: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Blocks (ids, vectors) as ids int64 (count,) in memory and vectors float32 (count, dim) in a new file that is mapped."""
    ids, database = np.empty(count, np.int64), np.lib.format.open_memmap(path, "w+", np.float32, (count, dim))
    start = 0
    for block_ids, block in blocks:
        ids[start : start + len(block_ids)], database[start : start + len(block_ids)] = block_ids, block
        start += len(block_ids)
    return ids, database
