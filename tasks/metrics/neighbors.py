"""Agreement of an index with exact nearest-neighbor search. Labels play no part here."""

from __future__ import annotations

from collections.abc import Iterable

import faiss
import numpy as np

from indexmill.tasks.indexing.factory import knn
from indexmill.tasks.indexing.searcher import BATCH_BLAS_THRESHOLD, select_top_k

DISTANCE_TOLERANCE = 1e-3  # ann-benchmarks' tolerance
ZERO_DISTANCE = 1e-6  # what float32 makes of a distance of 0
ID_PAIRS_AT_ONCE = 1 << 24  # pairs of ids compared together, a byte each


def exact_search(
    queries: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, metric: int
) -> tuple[np.ndarray, np.ndarray]:
    """Brute force over blocks (ids, vectors) that need not fit in memory together: scores float32 (n, k), ids int64 (n, k).

    Best first, equals by ascending id; -1 and the worst score where the database has fewer than k items.
    """
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    worst = -np.inf if higher_is_better else np.inf
    scores, ids = np.full((len(queries), k), worst, np.float32), np.full((len(queries), k), -1, np.int64)
    faiss.cvar.distance_compute_blas_threshold = BATCH_BLAS_THRESHOLD
    for block_ids, block in blocks:
        found, rows = knn(queries, np.ascontiguousarray(block), min(k, len(block)), metric)
        scores, ids = select_top_k(np.hstack([scores, found]), np.hstack([ids, block_ids[rows]]), k, higher_is_better=higher_is_better)
    return scores, ids


def ann_recall_at(found: np.ndarray, exact: np.ndarray, k: int) -> np.ndarray:
    """Recall@k against exact search by ids: |first k found and first k exact| / k, float64 (queries,).

    The denominator is k, or the number of items in the database where that is less. Where several items tie for the last places,
    finding others of them than exact search chose counts as a miss; `distance_recall_at` does not count it.
    """
    return count_common(found[:, :k], exact[:, :k]) / np.maximum((exact[:, :k] >= 0).sum(axis=1), 1)


def count_common(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How many of the wanted ids (n, w), -1 for none, stand in the same row of the found ones (n, f): int64 (n,). COMPARED at once."""
    step = max(1, ID_PAIRS_AT_ONCE // max(found.shape[1] * wanted.shape[1], 1))
    counts = np.zeros(len(found), np.int64)
    for start in range(0, len(found), step):
        at = slice(start, start + step)
        same = (found[at, :, None] == wanted[at, None, :]).any(axis=1)
        counts[at] = (same & (wanted[at] >= 0)).sum(axis=1)
    return counts


def distance_recall_at(scores: np.ndarray, ids: np.ndarray, exact: np.ndarray, k: int, *, higher_is_better: bool) -> np.ndarray:
    """Recall@k by ann-benchmarks' rule: the share of the first k found that are no farther than the k-th exact one, plus EPSILON.

    scores, exact: float32 (queries, >= k), the found and the exact scores of `exact_search`; `higher_is_better` tells inner products from squared
    Euclidean distances. Distances are 1 - score, or the Euclidean distance itself.
    """
    limits = _to_distances(exact[:, k - 1 : k], higher_is_better=higher_is_better)
    return ((_to_distances(scores[:, :k], higher_is_better=higher_is_better) <= limits + DISTANCE_TOLERANCE) & (ids[:, :k] >= 0)).sum(
        axis=1
    ) / k


def distance_ratio_at(scores: np.ndarray, ids: np.ndarray, exact: np.ndarray, k: int, *, higher_is_better: bool) -> np.ndarray:
    """Distance ratio@k = (sum of the first m found distances) / (sum of the m nearest), float64 (queries,); 1 is exact, above is worse.

    m is k, or what was found where that is less: what is missing, recall counts. It is ann-benchmarks' `rel`, query by query. Arguments
    and distances as in `distance_recall_at`, none below 0. NaN where nothing was found or the nearest lie at distance 0 within rounding:
    the caller leaves these out of the mean and counts them.
    """
    found, nearest = (np.maximum(_to_distances(side[:, :k], higher_is_better=higher_is_better), 0) for side in (scores, exact))
    filled = ids[:, :k] >= 0
    compared = np.arange(filled.shape[1]) < filled.sum(axis=1)[:, None]
    total = np.where(compared, nearest[:, : filled.shape[1]], 0).sum(axis=1)
    above = np.where(filled, found, 0).sum(axis=1)
    return np.divide(above, total, out=np.full(len(total), np.nan), where=total > ZERO_DISTANCE * compared.sum(axis=1))


def fraction_below(recalls: np.ndarray, limit: float = 0.5) -> float:
    """The share of queries whose recall is below a limit: (those) / (all queries); a mean near 1 can hide queries that find nothing."""
    return float((recalls < limit).mean()) if len(recalls) else float("nan")


def _to_distances(scores: np.ndarray, *, higher_is_better: bool) -> np.ndarray:
    return 1 - scores.astype(np.float64) if higher_is_better else np.sqrt(np.maximum(scores.astype(np.float64), 0))
