"""Exact nearest-neighbor search with FAISS, over vectors that need not fit into memory together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import faiss
import numpy as np

# FAISS compares pair by pair below this number of queries times vectors, and multiplies matrices above it. Its own
# default makes batches of up to a few hundred queries several times slower than necessary; for a single query, pair by
# pair is right.
BATCH_BLAS_THRESHOLD = 20


def exact_search(
    queries: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, metric: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest neighbors of each query by brute force.

    Args:
        queries: float32 (n, dim).
        blocks: the database as (ids int64 (m,), vectors float32 (m, dim)), one block in memory at a time.
        k: the number of neighbors.
        metric: FAISS's number of the metric.

    Returns:
        Scores float32 (n, k) and ids int64 (n, k): best first, ties by ascending id. If the database has fewer than k
        items, the empty ranks have id -1 and the worst score.
    """
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    worst = -np.inf if higher_is_better else np.inf
    scores, ids = np.full((len(queries), k), worst, np.float32), np.full((len(queries), k), -1, np.int64)
    faiss.cvar.distance_compute_blas_threshold = BATCH_BLAS_THRESHOLD
    for block_ids, block in blocks:
        block_scores, rows = knn(queries, np.ascontiguousarray(block), min(k, len(block)), metric)
        merged_scores, merged_ids = np.hstack([scores, block_scores]), np.hstack([ids, block_ids[rows]])
        scores, ids = select_top_k(merged_scores, merged_ids, k, higher_is_better=higher_is_better)
    return scores, ids


def knn(queries: np.ndarray, vectors: np.ndarray, k: int, metric: int) -> tuple[np.ndarray, np.ndarray]:
    """Search an array by brute force, on a GPU if FAISS has one.

    Args:
        queries: float32 (n, dim) in C order.
        vectors: float32 (m, dim) in C order.
        k: the number of neighbors.
        metric: FAISS's number of the metric.

    Returns:
        Scores float32 (n, k) and rows of `vectors` int64 (n, k), best first.
    """
    if not faiss.get_num_gpus():
        scores, rows = faiss.knn(queries, vectors, k, metric=metric)
    else:
        scores, rows = faiss.knn_gpu(_get_gpu_resources(), queries, vectors, k, metric=metric)
    return scores, rows


def select_top_k(scores: np.ndarray, ids: np.ndarray, k: int, *, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Select the k best columns of each row of (n, m) arrays: by score, then by ascending id.

    Empty ranks (id -1) come last.
    """
    keys = np.where(ids < 0, np.inf, -scores if higher_is_better else scores)
    order = np.lexsort((ids, keys), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


@cache
def _get_gpu_resources() -> Any:
    return faiss.StandardGpuResources()
