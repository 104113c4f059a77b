"""Retrieval: search the index for all queries, compute or load the exact neighbors, and compare the two."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from indexmill.storage.digests import json_digest
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.search_jobs import BLOCK_ITEMS, plan_search, search_in_jobs
from indexmill.tasks.indexing.chunk_search import exact_search_items
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.exclusion import drop_excluded
from indexmill.tasks.metrics.neighbors import ann_recall_at, distance_ratio_at, distance_recall_at, fraction_below
from indexmill.tasks.progress import track
from indexmill.tasks.runner import LOCAL_RUNNER, Runner

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


@dataclass(frozen=True)
class GroundTruth:
    """The exact nearest neighbors: scores float32 and ids int64, both (queries, k), best first, and the file that holds them."""

    scores: np.ndarray
    ids: np.ndarray
    file: FileRef


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


def compute_ground_truth(
    root: Root,
    folder: Path,
    *,
    indexed: EmbeddingSet,
    query_embeddings: EmbeddingSet,
    run: RetrievalRun,
    k: int,
    metric: int,
    runner: Runner = LOCAL_RUNNER,
) -> GroundTruth:
    """Search the database side exactly, or read the result that `folder` has for the same queries and database.

    A database of more than BLOCK_ITEMS items is searched by several jobs.

    The file is keyed by the digests of both sides' vectors, the query ids, k and the metric; it does not depend on the index.

    Args:
        root: The storage root.
        folder: Where ground-truth files are kept.
        indexed: The vectors that the index holds.
        query_embeddings: The set that the queries come from.
        run: Its queries are searched for.
        k: Neighbors per query.
        metric: A FAISS metric type.
        runner: Runs the jobs.
    """
    query_ids = run.query_ids.tolist()
    key = json_digest([indexed.digest, indexed.modality, query_embeddings.digest, query_embeddings.modality, query_ids, k, metric])
    path = folder / f"ground_truth-{key[:16]}.npz"
    if root.exists(path) and (cached := _read_cached_ground_truth(root.fetch(path), key)):
        return GroundTruth(*cached, root.make_ref(path))
    with track("exact search", indexed.indexed_vectors.database) as advance:
        if indexed.chunks or indexed.database <= BLOCK_ITEMS:
            scores, ids = exact_search_items(root, indexed, run.query_vectors, k, metric, advance)
        else:
            jobs = plan_search(root, key, indexed, run.query_vectors, k, metric)
            scores, ids = search_in_jobs(root, jobs, indexed, runner, advance)
    with root.replace_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, ids=ids, key=np.array(key))
    return GroundTruth(scores, ids, root.make_ref(path))


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


def _read_cached_ground_truth(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Read scores and ids, or None if the file is damaged or belongs to another key."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return (file["scores"], file["ids"]) if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
