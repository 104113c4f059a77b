"""Average precision over exact rankings of the whole database."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.metrics.per_label import UNLABELED

SCORES_AT_ONCE = 1 << 22  # scores in memory together: 16 MB, and a few bytes more for each
MAX_SEPARATE_TIES = 20  # tied scores that are resolved one by one; above this number the whole ranking is sorted


def full_average_precision(
    queries: np.ndarray, labels: np.ndarray, database: np.ndarray, database_labels: np.ndarray, own_pairs: np.ndarray | None = None
) -> np.ndarray:
    """Compute average precision by label with every database item ranked by inner product.

    Ties by ascending database row.

    Args:
        queries: float32 (queries, dim), in memory or memory-mapped.
        labels: their label codes, int (queries,).
        database: float32 (items, dim), in memory or memory-mapped.
        database_labels: their label codes, int (items,).
        own_pairs: (query row, database row), int64 (pairs, 2), of the query itself and its duplicates, which leave the
            ranking and the denominator.

    Returns:
        float64 (queries,), with the remaining relevant items as denominator; NaN for a query without any. Holds
        SCORES_AT_ONCE scores at a time, or those of one query if the database is larger.
    """
    step = max(1, SCORES_AT_ONCE // max(len(database), 1))
    pairs = np.empty((0, 2), np.int64) if own_pairs is None else own_pairs
    average_precisions = np.full(len(queries), np.nan)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = queries[block] @ database.T
        is_relevant = (labels[block, None] == database_labels) & (labels[block, None] != UNLABELED)
        block_pairs = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + step)]
        scores[block_pairs[:, 0] - start, block_pairs[:, 1]] = -np.inf
        is_relevant[block_pairs[:, 0] - start, block_pairs[:, 1]] = False
        for row in np.flatnonzero(is_relevant.any(axis=1)):
            ranks = compute_relevant_ranks(scores[row], is_relevant[row])
            average_precisions[start + row] = (np.arange(1, len(ranks) + 1) / ranks).mean()
    return average_precisions


def compute_relevant_ranks(scores: np.ndarray, is_relevant: np.ndarray) -> np.ndarray:
    """Compute the ranks of the relevant items in one full ranking.

    Sorting scores alone takes half the time of sorting scores with rows. Rows matter only if a relevant score ties with
    another one.

    Args:
        scores: float32 (items,).
        is_relevant: bool (items,).

    Returns:
        int64 (relevant,), counted from 1, ascending.
    """
    sorted_scores, relevant_scores = np.sort(scores), np.sort(scores[is_relevant])[::-1]
    end = np.searchsorted(sorted_scores, relevant_scores, "right")
    tied = np.unique(relevant_scores[end - np.searchsorted(sorted_scores, relevant_scores) > 1])
    if len(tied) > MAX_SEPARATE_TIES:
        return np.flatnonzero(is_relevant[argsort_descending(scores[None])[0]]) + 1
    ranks = len(scores) - end + 1
    for score in tied:
        ranks[relevant_scores == score] += np.flatnonzero(is_relevant[scores == score])
    return ranks


def argsort_descending(scores: np.ndarray) -> np.ndarray:
    """Sort each row in descending order, ties by ascending column.

    One sort of integers (the score in the high bits, the column in the low ones) takes about half the time of a stable
    sort of scores.

    Args:
        scores: float32 (n, m) without NaN, m < 2**32.

    Returns:
        The columns in that order, int64 (n, m).
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # turns -0.0 into 0.0, which is equal
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (~ascending).astype(np.uint64) << np.uint64(32) | np.arange(scores.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
