"""Retrieval: search the index for all queries, and compare its rankings with the exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from indexmill.tasks.evaluation.ground_truth import GroundTruth
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.exclusion import drop_excluded
from indexmill.tasks.metrics.neighbors import ann_recall_at, distance_ratio_at, distance_recall_at, fraction_below
from indexmill.tasks.progress import track

QUERIES_AT_ONCE = 256
ANN_K = 10  # ANN metrics are always measured at this cutoff too


@dataclass(frozen=True)
class RetrievalRun:
    """The rankings that the index returned. Memory grows with queries times depth, both of which the config bounds.

    Attributes:
        query_ids: Item ids of the queries, int64 (queries,).
        query_vectors: float32 (queries, dim).
        scores: FAISS's own scores, float32 (queries, depth).
        retrieved: Item ids, int64 (queries, depth), best first; -1 where the index returned fewer.
    """

    query_ids: np.ndarray
    query_vectors: np.ndarray
    scores: np.ndarray
    retrieved: np.ndarray


def run_queries(searcher: Searcher, query_ids: np.ndarray, query_vectors: np.ndarray, k: int, depth: int) -> RetrievalRun:
    """Search for the `k` best items of every query, then for the rest of the `depth` best.

    The first k ranks are those of a top-k search, as a user gets them: a deeper search looks at more candidates, and its first k ranks
    would overstate quality.
    """
    count = len(query_vectors)
    scores, retrieved = np.empty((count, depth), np.float32), np.empty((count, depth), np.int64)
    with track("searching", count) as advance:
        for start in range(0, count, QUERIES_AT_ONCE):
            batch = slice(start, start + QUERIES_AT_ONCE)
            scores[batch], retrieved[batch] = _search_in_two_passes(searcher, query_vectors[batch], min(k, depth), depth)
            advance(len(retrieved[batch]))
    return RetrievalRun(query_ids, query_vectors, scores, retrieved)


def choose_cutoffs(ks: tuple[int, ...], database: int) -> list[int]:
    """Choose the cutoffs of the ANN metrics: every configured k and ANN_K, as long as the database has that many items."""
    return sorted({k for k in (*ks, ANN_K) if k <= database})


def compute_ann_metrics(run: RetrievalRun, ground_truth: GroundTruth, ks: list[int], metric: int) -> dict[str, np.ndarray]:
    """Compare the run with exact search: one float64 (queries,) array per metric.

    `ann_distance_ratio_at_10` is NaN for a query whose exact neighbors are at distance 0.
    """
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    columns = {f"ann_recall_at_{k}": ann_recall_at(run.retrieved, ground_truth.ids, k) for k in ks}
    for k in ks:
        columns[f"ann_distance_recall_at_{k}"] = distance_recall_at(
            run.scores, run.retrieved, ground_truth.scores, k, higher_is_better=higher_is_better
        )
    if ANN_K in ks:
        ratios = distance_ratio_at(run.scores, run.retrieved, ground_truth.scores, ANN_K, higher_is_better=higher_is_better)
        # The last bits of float32 scores depend on how a search is divided among blocks and threads.
        columns[f"ann_distance_ratio_at_{ANN_K}"] = np.round(ratios, 4)
    return columns


def summarize_ann_metrics(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Average each metric over the queries that have a value, and add the share of queries with recall below one half at ANN_K."""
    metrics = {name: float(np.nanmean(column)) for name, column in columns.items() if np.isfinite(column).any()}
    if (recalls := columns.get(f"ann_recall_at_{ANN_K}")) is not None and len(recalls):
        metrics[f"ann_share_below_half_at_{ANN_K}"] = fraction_below(recalls)
    return metrics


def _search_in_two_passes(searcher: Searcher, queries: np.ndarray, k: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    scores, retrieved = searcher.search(queries, k)
    if depth == k:
        return scores, retrieved
    deep_scores, deep = searcher.search(queries, depth)
    is_repeated = (deep[:, :, None] == retrieved[:, None, :]).any(axis=2)
    worst = -np.inf if searcher.higher_is_better else np.inf
    rest_scores, rest = drop_excluded(deep_scores, is_repeated, worst), drop_excluded(deep, is_repeated)
    return np.hstack([scores, rest_scores])[:, :depth], np.hstack([retrieved, rest])[:, :depth]
