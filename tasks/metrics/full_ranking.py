"""Exact rankings of the whole database, and average precision over them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from indexmill.tasks.evaluation.labels import UNLABELED

RANKING_SCORES_AT_ONCE = 1 << 22  # scores in memory together: 16 MB, and 32 MB of what is sorted


def iterate_full_rankings(queries: np.ndarray, database: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rank every row of the database for every query by inner product; yield (which queries, rows int64 (n, database)), best first.

    queries, database: float32 (n, dim), in memory or memory-mapped. Equal scores stand by ascending row, so give rows in ascending order
    of item id. A block holds SCORES_AT_ONCE scores, or those of one query where the database is larger: 12 bytes a database vector.
    """
    step = max(1, RANKING_SCORES_AT_ONCE // max(len(database), 1))
    for start in range(0, len(queries), step):
        block = slice(start, min(start + step, len(queries)))
        yield block, argsort_descending(queries[block] @ database.T)


def argsort_descending(scores: np.ndarray) -> np.ndarray:
    """The columns of each row, largest score first, equals by ascending column: int64 (n, m). scores: float32 (n, m), m < 2**32, no NaN.

    One sort of whole numbers (score above, column below) takes about half the time of a stable sort of scores.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0: they are equal
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (~rising).astype(np.uint64) << np.uint64(32) | np.arange(scores.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


SCORES_AT_ONCE = 1 << 22  # 16 MB, and a few bytes more for each
MAX_SEPARATE_TIES = 20  # scores that tie, up to which each is looked at alone


def full_average_precision(
    queries: np.ndarray, labels: np.ndarray, database: np.ndarray, database_labels: np.ndarray, own_pairs: np.ndarray | None = None
) -> np.ndarray:
    """AP by label with every database item ranked by inner product, float64 (queries,); NaN for a query without a relevant item.

    queries, database: float32 (n, dim), in memory or memory-mapped. labels: codes of either. own: pairs (query row, database row), int64
    (pairs, 2), that are the query itself or its duplicates: they leave the ranking and the denominator, which is the relevant items left.
    Equal scores stand by ascending database row. A block holds SCORES_AT_ONCE scores, or those of one query where the database is larger.
    """
    step = max(1, SCORES_AT_ONCE // max(len(database), 1))
    pairs = np.empty((0, 2), np.int64) if own_pairs is None else own_pairs
    average_precisions = np.full(len(queries), np.nan)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = queries[block] @ database.T
        relevant = (labels[block, None] == database_labels) & (labels[block, None] != UNLABELED)
        here = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + step)]
        scores[here[:, 0] - start, here[:, 1]] = -np.inf
        relevant[here[:, 0] - start, here[:, 1]] = False
        for at in np.flatnonzero(relevant.any(axis=1)):
            ranks = compute_relevant_ranks(scores[at], relevant[at])
            average_precisions[start + at] = (np.arange(1, len(ranks) + 1) / ranks).mean()
    return average_precisions


def compute_relevant_ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """The ranks, from 1, of the relevant items in one full ranking, ascending: int64 (relevant,). scores, relevant: (items,).

    Sorting plain scores takes half the time of sorting scores with rows. Rows matter only where a relevant score ties with another one.
    """
    every, theirs = np.sort(scores), np.sort(scores[relevant])[::-1]
    end = np.searchsorted(every, theirs, "right")
    tied = np.unique(theirs[end - np.searchsorted(every, theirs) > 1])
    if len(tied) > MAX_SEPARATE_TIES:
        return np.flatnonzero(relevant[argsort_descending(scores[None])[0]]) + 1
    ranks = len(scores) - end + 1
    for score in tied:
        ranks[theirs == score] += np.flatnonzero(relevant[scores == score])
    return ranks
