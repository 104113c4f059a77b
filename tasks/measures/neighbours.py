"""Agreement with exact search: did the index find the true nearest neighbours? Labels play no part here."""

from __future__ import annotations

from collections.abc import Iterable

import faiss
import numpy as np

from tasks.indexes.searcher import BLAS_THRESHOLD, best

EPSILON = 1e-3  # ann-benchmarks' tolerance


def exact_search(
    queries: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, metric: int
) -> tuple[np.ndarray, np.ndarray]:
    """Brute force over blocks (ids, vectors) that need not fit in memory together: scores float32 (n, k), ids int64 (n, k).

    Best first, equals by ascending id; -1 and the worst score where the database has fewer than k items.
    """
    larger = metric == faiss.METRIC_INNER_PRODUCT
    worst = -np.inf if larger else np.inf
    scores, ids = np.full((len(queries), k), worst, np.float32), np.full((len(queries), k), -1, np.int64)
    faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
    for block_ids, block in blocks:
        found, rows = faiss.knn(queries, np.ascontiguousarray(block), min(k, len(block)), metric=metric)
        scores, ids = best(np.hstack([scores, found]), np.hstack([ids, block_ids[rows]]), k, larger=larger)
    return scores, ids


def overlap_at(found: np.ndarray, exact: np.ndarray, k: int) -> np.ndarray:
    """Recall@k against exact search by ids: |first k found and first k exact| / k, float64 (queries,).

    The denominator is k, or the number of items in the database where that is less. Where several items tie for the last places,
    finding others of them than exact search chose counts as a miss; `distance_recall_at` does not count it.
    """
    among = (found[:, :k, None] == exact[:, None, :k]) & (exact[:, None, :k] >= 0)
    return among.any(axis=1).sum(axis=1) / np.maximum((exact[:, :k] >= 0).sum(axis=1), 1)


def distance_recall_at(scores: np.ndarray, ids: np.ndarray, exact: np.ndarray, k: int, *, larger: bool) -> np.ndarray:
    """Recall@k by ann-benchmarks' rule: the share of the first k found that are no farther than the k-th exact one, plus EPSILON.

    scores, exact: float32 (queries, >= k), the found and the exact scores; distances are 1 - score for inner products.
    """
    distances, limits = (1 - scores[:, :k], 1 - exact[:, k - 1 : k]) if larger else (scores[:, :k], exact[:, k - 1 : k])
    return ((distances <= limits + EPSILON) & (ids[:, :k] >= 0)).sum(axis=1) / k
