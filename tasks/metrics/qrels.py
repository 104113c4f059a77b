"""Relevance judgments (qrels): pairs of a query and an item, with the gain of the item for the query."""

from __future__ import annotations

import numpy as np


class Qrels:
    """Judged pairs of a set of queries (trec_eval's qrels). Holds 24 bytes a pair.

    rows, int (pairs,): which query of the evaluation, counted from 0. items, int64 (pairs,): item ids of the database. gains (pairs,):
    0 is judged and not relevant; None for 1 everywhere. A pair that stands twice counts once, with its largest gain.
    """

    def __init__(self, queries: int, rows: np.ndarray, items: np.ndarray, gains: np.ndarray | None = None) -> None:
        worth = np.ones(len(rows)) if gains is None else np.asarray(gains, np.float64)
        self._queries = queries
        self._items = np.unique(items)
        keys = self._pair_keys(np.asarray(rows, np.int64), np.asarray(items, np.int64))
        order = np.lexsort((-worth, keys))
        first = np.diff(keys[order], prepend=-1) > 0
        self._pairs, self._gains = keys[order][first], worth[order][first]
        self._rows = self._pairs // max(len(self._items), 1)

    @property
    def relevant(self) -> np.ndarray:
        """How many items are worth more than 0 to each query, int64 (queries,): the denominator of recall and average precision."""
        return np.bincount(self._rows[self._gains > 0], minlength=self._queries)

    def gains(self, found: np.ndarray) -> np.ndarray:
        """What each found item is worth, float64 (queries, depth); 0 where it was never judged or the id is -1. Hits are gains > 0.

        found: item ids int64 (queries, depth), row i for query i.
        """
        if not len(self._pairs):
            return np.zeros(found.shape)
        places = np.minimum(np.searchsorted(self._items, found), len(self._items) - 1)
        keys = np.where(self._items[places] == found, np.arange(len(found))[:, None] * len(self._items) + places, -1)
        at = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
        return np.where(self._pairs[at] == keys, self._gains[at], 0.0)

    def ideal_gains(self, k: int) -> np.ndarray:
        """The k largest gains of each query, largest first, then zeros: float64 (queries, k)."""
        order = np.lexsort((-self._gains, self._rows))
        starts = np.searchsorted(self._rows, np.arange(self._queries))
        ranks = np.arange(len(order)) - starts[self._rows]
        kept = ranks < k
        ideal_gains = np.zeros((self._queries, k))
        ideal_gains[self._rows[order][kept], ranks[kept]] = self._gains[order][kept]
        return ideal_gains

    def _pair_keys(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        return rows * len(self._items) + np.searchsorted(self._items, items)
