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
# From this depth on, FAISS's heaps and the sorting of each block's results cost several times the multiplication.
DEEP_K = 100
SELECTION_BYTES = 64_000_000


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
        Scores float32 (n, k) and ids int64 (n, k): best first, ties by ascending id. If the database has
        fewer than k items, the empty ranks have id -1 and the worst score.
    """
    if k >= DEEP_K and not faiss.get_num_gpus():
        return _search_deep(queries, blocks, k, is_inner_product=metric == faiss.METRIC_INNER_PRODUCT)
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    worst = -np.inf if higher_is_better else np.inf
    scores, ids = np.full((len(queries), k), worst, np.float32), np.full((len(queries), k), -1, np.int64)
    faiss.cvar.distance_compute_blas_threshold = BATCH_BLAS_THRESHOLD
    for block_ids, block in blocks:
        block_scores, found = _search_block(queries, block_ids, np.ascontiguousarray(block), k, metric)
        merged_scores, merged_ids = np.hstack([scores, block_scores]), np.hstack([ids, found])
        scores, ids = select_top_k(merged_scores, merged_ids, k, higher_is_better=higher_is_better)
    return scores, ids


def _search_block(queries: np.ndarray, ids: np.ndarray, block: np.ndarray, k: int, metric: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and ids of the k best items of a block, or of all items of a smaller one.

    Of items that tie at the last rank, FAISS returns any. So it is asked for one rank more, and queries whose last two
    ranks tie are searched again as deep ones are.
    """
    scores, rows = knn(queries, block, min(k + 1, len(block)), metric)
    if len(block) <= k:
        return scores, ids[rows]
    best_scores, best_ids = scores[:, :k].copy(), ids[rows[:, :k]]
    tied = np.flatnonzero(scores[:, k - 1] == scores[:, k])
    if len(tied):
        best_scores[tied], best_ids[tied] = _search_deep(
            queries[tied], [(ids, block)], k, is_inner_product=metric == faiss.METRIC_INNER_PRODUCT
        )
    return best_scores, best_ids


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


def _search_deep(
    queries: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, *, is_inner_product: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Do what `exact_search` does by partitioning each query's distances and its k best so far; they are sorted once.

    A distance is -q·x, or |x|² - 2 q·x, which orders as |q - x|² does.
    """
    best, ids = np.full((len(queries), k), np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    factors = -queries if is_inner_product else -2 * queries
    for block_ids, block in blocks:
        norms = None if is_inner_product else np.einsum("ij,ij->i", block, block)
        width = k + len(block)
        tile_rows = max(1, SELECTION_BYTES // (width * (best.itemsize + ids.itemsize)))
        for start in range(0, len(queries), tile_rows):
            tile = slice(start, start + tile_rows)
            distances = np.empty((len(factors[tile]), width), np.float32)
            distances[:, :k] = best[tile]
            np.matmul(factors[tile], block.T, out=distances[:, k:])
            if norms is not None:
                distances[:, k:] += norms
            columns = np.argpartition(distances, k - 1, axis=1)[:, :k]
            best[tile] = np.take_along_axis(distances, columns, axis=1)
            for row in np.flatnonzero((distances <= best[tile].max(axis=1, keepdims=True)).sum(axis=1) > k):
                columns[row] = _partition_ties(distances[row], np.concatenate([ids[start + row], block_ids]), k)
                best[start + row] = distances[row, columns[row]]
            kept = np.take_along_axis(ids[tile], np.minimum(columns, k - 1), axis=1)
            ids[tile] = np.where(columns < k, kept, block_ids[np.maximum(columns - k, 0)])
    distances, ids = select_top_k(best, ids, k, higher_is_better=False)
    if is_inner_product:
        return -distances, ids
    return np.maximum(distances + np.einsum("ij,ij->i", queries, queries)[:, None], 0), ids


def _partition_ties(distances: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k smallest distances; of those equal to the k-th, the smallest ids."""
    limit = np.partition(distances, k - 1)[k - 1]
    smaller, equal = np.flatnonzero(distances < limit), np.flatnonzero(distances == limit)
    return np.concatenate([smaller, equal[np.argsort(ids[equal])][: k - len(smaller)]])


def select_top_k(scores: np.ndarray, ids: np.ndarray, k: int, *, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Select the k best columns of each row of (n, m) arrays: by score, then by ascending id.

    Empty ranks (id -1) come last.
    """
    keys = np.where(ids < 0, np.inf, -scores if higher_is_better else scores)
    order = np.argsort(keys, axis=1)
    ranked = np.take_along_axis(keys, order[:, : k + 1], axis=1)
    tied = np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(axis=1))  # few rows: sorting by two keys takes much longer
    order = order[:, :k]
    order[tied] = np.lexsort((ids[tied], keys[tied]), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


@cache
def _get_gpu_resources() -> Any:
    return faiss.StandardGpuResources()
