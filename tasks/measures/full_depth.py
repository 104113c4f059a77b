"""Average precision by label over the whole database, without keeping a ranking: only the ranks of the relevant items are needed."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.measures.labels import UNLABELLED
from indexmill.tasks.measures.rankings import descending

SCORES_AT_ONCE = 1 << 22  # 16 MB, and a few bytes more for each
TIES = 20  # scores that tie, up to which each is looked at alone


def full_average_precision(
    queries: np.ndarray, labels: np.ndarray, database: np.ndarray, database_labels: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """AP by label with every database item ranked by inner product, float64 (queries,); NaN for a query without a relevant item.

    queries, database: float32 (n, dim), in memory or memory-mapped. labels: codes of either. own: pairs (query row, database row), int64
    (pairs, 2), that are the query itself or its duplicates: they leave the ranking and the denominator, which is the relevant items left.
    Equal scores stand by ascending database row. A block holds SCORES_AT_ONCE scores, or those of one query where the database is larger.
    """
    step = max(1, SCORES_AT_ONCE // max(len(database), 1))
    pairs = np.empty((0, 2), np.int64) if own is None else own
    figures = np.full(len(queries), np.nan)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = queries[block] @ database.T
        relevant = (labels[block, None] == database_labels) & (labels[block, None] != UNLABELLED)
        here = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + step)]
        scores[here[:, 0] - start, here[:, 1]] = -np.inf
        relevant[here[:, 0] - start, here[:, 1]] = False
        for at in np.flatnonzero(relevant.any(axis=1)):
            ranks = relevant_ranks(scores[at], relevant[at])
            figures[start + at] = (np.arange(1, len(ranks) + 1) / ranks).mean()
    return figures


def relevant_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """The ranks, from 1, of the relevant items in one full ranking, ascending: int64 (relevant,). scores, relevant: (items,).

    Sorting plain scores takes half the time of sorting scores with rows. Rows matter only where a relevant score ties with another one.
    """
    every, theirs = np.sort(scores), np.sort(scores[relevant])[::-1]
    end = np.searchsorted(every, theirs, "right")
    tied = np.unique(theirs[end - np.searchsorted(every, theirs) > 1])
    if len(tied) > TIES:
        return np.flatnonzero(relevant[descending(scores[None])[0]]) + 1
    ranks = len(scores) - end + 1
    for score in tied:
        ranks[theirs == score] += np.flatnonzero(relevant[scores == score])
    return ranks
