"""Relevance judgments (qrels): pairs of a query and an item, with the gain of the item for the query."""

from __future__ import annotations

import numpy as np


class Qrels:
    """The judged pairs of a set of queries, as in trec_eval. Holds 24 bytes per pair."""

    def __init__(self, queries: int, rows: np.ndarray, items: np.ndarray, gains: np.ndarray | None = None) -> None:
        """Index the pairs; of equal pairs the one with the largest gain counts.

        Args:
            queries: the number of queries.
            rows: the query of each pair, counted from 0, int (pairs,).
            items: its item id, int64 (pairs,).
            gains: its gain (pairs,); 0 is judged and not relevant. None for 1 everywhere.
        """
        pair_gains = np.ones(len(rows)) if gains is None else np.asarray(gains, np.float64)
        self._queries = queries
        self._items = np.unique(items)
        keys = self._make_pair_keys(np.asarray(rows, np.int64), np.asarray(items, np.int64))
        order = np.lexsort((-pair_gains, keys))
        is_first = np.diff(keys[order], prepend=-1) > 0
        self._pairs, self._gains = keys[order][is_first], pair_gains[order][is_first]
        self._rows = self._pairs // max(len(self._items), 1)

    @property
    def relevant(self) -> np.ndarray:
        """The number of items with a positive gain per query, int64 (queries,): the denominator of recall and average
        precision.
        """
        return np.bincount(self._rows[self._gains > 0], minlength=self._queries)

    @property
    def judged(self) -> np.ndarray:
        """The number of judged items per query, relevant or not, int64 (queries,)."""
        return np.bincount(self._rows, minlength=self._queries)

    def look_up_gains(self, retrieved: np.ndarray) -> np.ndarray:
        """Look up the gain of each retrieved item; a hit is a gain above 0.

        Args:
            retrieved: item ids int64 (queries, depth), row i for query i.

        Returns:
            float64 (queries, depth); 0 if the pair was never judged or the id is -1.
        """
        if not len(self._pairs):
            return np.zeros(retrieved.shape)
        positions, is_judged = self._find_pairs(retrieved)
        return np.where(is_judged, self._gains[positions], 0.0)

    def look_up_judged(self, retrieved: np.ndarray) -> np.ndarray:
        """Look up whether each retrieved item, as in `look_up_gains`, was judged for its query: bool (queries, depth)."""
        return self._find_pairs(retrieved)[1] if len(self._pairs) else np.zeros(retrieved.shape, bool)

    def look_up_row(self, row: int, items: np.ndarray) -> list[tuple[float, bool]]:
        """Look up the gain of items, int64 (n,), for one query, and whether each was judged at all."""
        ranking = np.full((self._queries, len(items)), -1, np.int64)
        ranking[row] = items
        return list(zip(self.look_up_gains(ranking)[row].tolist(), self.look_up_judged(ranking)[row].tolist(), strict=True))

    def ideal_gains(self, k: int) -> np.ndarray:
        """Return the k largest gains of each query in descending order, padded with zeros: float64 (queries, k)."""
        order = np.lexsort((-self._gains, self._rows))
        starts = np.searchsorted(self._rows, np.arange(self._queries))
        ranks = np.arange(len(order)) - starts[self._rows]
        is_within = ranks < k
        ideal_gains = np.zeros((self._queries, k))
        ideal_gains[self._rows[order][is_within], ranks[is_within]] = self._gains[order][is_within]
        return ideal_gains

    def _find_pairs(self, retrieved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find each result's position among the pairs, and whether it is there at all. There must be a pair."""
        columns = np.minimum(np.searchsorted(self._items, retrieved), len(self._items) - 1)
        keys = np.where(self._items[columns] == retrieved, np.arange(len(retrieved))[:, None] * len(self._items) + columns, -1)
        positions = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
        return positions, self._pairs[positions] == keys

    def _make_pair_keys(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return rows * len(self._items) + np.searchsorted(self._items, items)
