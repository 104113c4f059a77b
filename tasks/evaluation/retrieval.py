"""Retrieval: search the index for all queries, compute or load the exact neighbors, and compare the two."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.exclusion import drop_excluded
from indexmill.tasks.metrics.neighbors import ann_recall_at, distance_ratio_at, distance_recall_at, fraction_below
from indexmill.tasks.progress import track

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class RetrievalRun:
    """ids: the queries, int64 (queries,); vectors: float32 (queries, dim); found: item ids int64 (queries, depth), -1 for an empty place.

    scores: float32 of that shape, FAISS's own. So it grows with queries times depth, both of which the config bounds.
    """

    ids: np.ndarray
    vectors: np.ndarray
    scores: np.ndarray
    retrieved: np.ndarray


def run_queries(searcher: Searcher, ids: np.ndarray, queries: np.ndarray, k: int, depth: int) -> RetrievalRun:
    """Ask for the k best items of every query, and then for the rest of the `depth` best.

    The first k places are what a caller who wants k gets. A deep search looks at more candidates than that one does, and would flatter it.
    """
    scores, retrieved = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
    with track("searching", len(queries)) as advance:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            batch = slice(start, start + QUERIES_AT_ONCE)
            scores[batch], retrieved[batch] = _search_in_two_passes(searcher, queries[batch], min(k, depth), depth)
            advance(len(retrieved[batch]))
    return RetrievalRun(ids, queries, scores, retrieved)


def _search_in_two_passes(searcher: Searcher, queries: np.ndarray, k: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    scores, retrieved = searcher.search(queries, k)
    if depth == k:
        return scores, retrieved
    deep_scores, deep = searcher.search(queries, depth)
    again = (deep[:, :, None] == retrieved[:, None, :]).any(axis=2)
    worst = -np.inf if searcher.higher_is_better else np.inf
    rest = drop_excluded(deep_scores, again, worst), drop_excluded(deep, again)
    return np.hstack([scores, rest[0]])[:, :depth], np.hstack([retrieved, rest[1]])[:, :depth]


@dataclass(frozen=True)
class GroundTruth:
    """scores float32 and ids int64, both (queries, k), best first, and the file that holds them."""

    scores: np.ndarray
    ids: np.ndarray
    file: FileRef


def compute_ground_truth(
    root: Root, folder: Path, indexed: EmbeddingSet, query_embeddings: EmbeddingSet, run: RetrievalRun, k: int, metric: int
) -> GroundTruth:
    """Exact search of the database side, block by block, unless `folder` has it for these very queries and this very database.

    The key is made of the digests of both sides' vectors, the query ids, k and the metric; how the index is made is not in it.
    """
    key = json_digest([indexed.digest, indexed.modality, query_embeddings.digest, query_embeddings.modality, run.ids.tolist(), k, metric])
    path = folder / f"ground_truth-{key[:16]}.npz"
    if path.exists() and (known := _read_cached_ground_truth(path, key)):
        return GroundTruth(*known, root.make_ref(path))
    with track("exact search", indexed.database) as advance, open_vectors(root, indexed, side="database") as blocks:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for block_ids, block in blocks:
                yield block_ids, block
                advance(len(block_ids))

        scores, found = exact_search(run.vectors, counted(), k, metric)
    with root.replace_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, ids=found, key=np.array(key))
    return GroundTruth(scores, found, root.make_ref(path))


def _read_cached_ground_truth(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the file holds, if it is whole and this key's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return (file["scores"], file["ids"]) if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


ANN_K = 10  # agreement is told at this depth besides every k


def choose_cutoffs(ks: tuple[int, ...], database: int) -> list[int]:
    """The depths that agreement is told at: every k and DEPTH that the database can fill."""
    return sorted({k for k in (*ks, ANN_K) if k <= database})


def compute_ann_metrics(run: RetrievalRun, ground_truth: GroundTruth, ks: list[int], metric: int) -> dict[str, np.ndarray]:
    """One column a measure, float64 (queries,); NaN in `ann_distance_ratio_at_10` where the nearest lie at distance 0."""
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    columns = {f"ann_recall_at_{k}": ann_recall_at(run.retrieved, ground_truth.ids, k) for k in ks}
    for k in ks:
        columns[f"ann_distance_recall_at_{k}"] = distance_recall_at(
            run.scores, run.retrieved, ground_truth.scores, k, higher_is_better=higher_is_better
        )
    if ANN_K in ks:
        columns[f"ann_distance_ratio_at_{ANN_K}"] = distance_ratio_at(
            run.scores, run.retrieved, ground_truth.scores, ANN_K, higher_is_better=higher_is_better
        )
    return columns


def summarize_ann_metrics(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over the queries, the ratio's over those that have one; and the share of queries that found less than half, at DEPTH."""
    figures = {name: float(np.nanmean(column)) for name, column in columns.items() if np.isfinite(column).any()}
    if (recalls := columns.get(f"ann_recall_at_{ANN_K}")) is not None and len(recalls):
        figures[f"ann_share_below_half_at_{ANN_K}"] = fraction_below(recalls)
    return figures
