"""Compare rankings with exact nearest neighbors, and with those of another snapshot. Labels are not used."""

from __future__ import annotations

import numpy as np

DISTANCE_TOLERANCE = 1e-3  # ann-benchmarks' tolerance
ZERO_DISTANCE = 1e-6  # what float32 rounding makes of a distance of 0
ID_PAIRS_AT_ONCE = 1 << 24  # pairs of ids compared together, one byte each


def ann_recall_at(retrieved: np.ndarray, exact: np.ndarray, k: int) -> np.ndarray:
    """Compute ANN recall@k by ids: |first k retrieved ∩ first k exact| / k.

    The denominator is k, or the size of the database if that is smaller. When several items tie for the last ranks,
    retrieving other ones than exact search chose counts as a miss; `distance_recall_at` does not count it.

    Args:
        retrieved: item ids int64 (queries, >= k), -1 at empty ranks.
        exact: the same for exact search.
        k: the cutoff.

    Returns:
        float64 (queries,).
    """
    return count_common(retrieved[:, :k], exact[:, :k]) / np.maximum((exact[:, :k] >= 0).sum(axis=1), 1)


def count_common(retrieved: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Count the ids that two rankings of each query share.

    Args:
        retrieved: item ids int64 (n, a).
        expected: item ids int64 (n, b), distinct within a row; -1 at empty ranks, which never match.

    Returns:
        int64 (n,). Works on ID_PAIRS_AT_ONCE pairs of ids at a time.
    """
    step = max(1, ID_PAIRS_AT_ONCE // max(retrieved.shape[1] * expected.shape[1], 1))
    counts = np.zeros(len(retrieved), np.int64)
    for start in range(0, len(retrieved), step):
        block = slice(start, start + step)
        is_common = (retrieved[block, :, None] == expected[block, None, :]).any(axis=1)
        counts[block] = (is_common & (expected[block] >= 0)).sum(axis=1)
    return counts


def churn_at(baseline: np.ndarray, candidate: np.ndarray, k: int = 10) -> np.ndarray:
    """Compute churn@k = 1 - |first k of baseline ∩ first k of candidate| / k.

    0: the same items in any order; 1: no item in common.

    The denominator is the longer of the two lists if both are shorter than k; two empty lists have no churn.

    Args:
        baseline: item ids int64 (queries, >= k), distinct within a row, -1 at empty ranks.
        candidate: the same for the other snapshot; row i belongs to the same query (`bootstrap.align_by_query` pairs
            them).
        k: the cutoff.

    Returns:
        float64 (queries,).
    """
    left, right = baseline[:, :k], candidate[:, :k]
    longest = np.maximum((left >= 0).sum(axis=1), (right >= 0).sum(axis=1))
    return 1 - count_common(left, right) / np.maximum(longest, 1) - (longest == 0)


def distance_recall_at(scores: np.ndarray, ids: np.ndarray, exact_scores: np.ndarray, k: int, *, higher_is_better: bool) -> np.ndarray:
    """Compute recall@k by distance: the share of the first k that are no farther than the k-th exact neighbor plus
    DISTANCE_TOLERANCE.

    This is the rule of ann-benchmarks. Distances are 1 - score for inner products, and Euclidean distances otherwise.

    Args:
        scores: the scores of the retrieved items, float32 (queries, >= k), as `exact_search` returns them.
        ids: their item ids, int64 of the same shape, -1 at empty ranks.
        exact_scores: the scores of exact search, float32 (queries, >= k).
        k: the cutoff, which is the denominator.
        higher_is_better: True for inner products, False for squared Euclidean distances.

    Returns:
        float64 (queries,).
    """
    limits = _to_distances(exact_scores[:, k - 1 : k], higher_is_better=higher_is_better) + DISTANCE_TOLERANCE
    is_near = _to_distances(scores[:, :k], higher_is_better=higher_is_better) <= limits
    return (is_near & (ids[:, :k] >= 0)).sum(axis=1) / k


def distance_ratio_at(scores: np.ndarray, ids: np.ndarray, exact_scores: np.ndarray, k: int, *, higher_is_better: bool) -> np.ndarray:
    """Compute distance ratio@k = (sum of the first m retrieved distances) / (sum of the m smallest).

    1 is exact, more is worse.

    m is k, or the number of retrieved items if that is smaller: missing items lower the recall instead. This is
    ann-benchmarks' `rel` per query. Distances are those of `distance_recall_at`, and at least 0.

    Args:
        scores, ids, exact_scores, k, higher_is_better: as in `distance_recall_at`.

    Returns:
        float64 (queries,). NaN if nothing was retrieved, or if the nearest neighbors are at distance 0 within rounding:
        callers leave these queries out of the mean and count them.
    """
    distances, smallest = (
        np.maximum(_to_distances(values[:, :k], higher_is_better=higher_is_better), 0) for values in (scores, exact_scores)
    )
    is_filled = ids[:, :k] >= 0
    is_compared = np.arange(is_filled.shape[1]) < is_filled.sum(axis=1)[:, None]
    denominator = np.where(is_compared, smallest[:, : is_filled.shape[1]], 0).sum(axis=1)
    numerator = np.where(is_filled, distances, 0).sum(axis=1)
    is_defined = denominator > ZERO_DISTANCE * is_compared.sum(axis=1)
    return np.divide(numerator, denominator, out=np.full(len(denominator), np.nan), where=is_defined)


def fraction_below(recalls: np.ndarray, limit: float = 0.5) -> float:
    """Compute the fraction of queries whose recall is below a limit; NaN without queries.

    A mean near 1 can hide queries with hardly any recall.
    """
    return float((recalls < limit).mean()) if len(recalls) else float("nan")


def _to_distances(scores: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
    return 1 - scores.astype(np.float64) if higher_is_better else np.sqrt(np.maximum(scores.astype(np.float64), 0))
