"""Metrics of the embedding apart from the index: average precision over full rankings, scored pairs, and cross-modal retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.records import EmbeddingSet, FileRef, Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.correlation import compute_correlations, cosine_similarities
from indexmill.tasks.metrics.cross_modal import compute_cross_modal_metrics
from indexmill.tasks.metrics.full_ranking import full_average_precision
from indexmill.tasks.progress import track


def write_vector_memmap(root: Root, embeddings: EmbeddingSet, side: Side, count: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One side's ids, int64 (count,), ascending, and its vectors, float32 (count, dim), mapped from `path`. Holds 8 bytes an item."""
    ids = np.empty(count, np.int64)
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (count, embeddings.dim))
    start = 0
    with open_vectors(root, embeddings, side=side) as blocks:
        for block_ids, block in blocks:
            stop = start + len(block_ids)
            ids[start:stop], mapped[start:stop] = block_ids, block
            start = stop
    return ids, mapped


MAX_SCORES = 200_000_000  # queries times database: about twenty seconds on two cores
MAX_QUERIES = 1000


class FullRankingMap(NamedTuple):
    """metrics: `map_full_depth`, or nothing; queries: how many it rests on."""

    metrics: dict[str, float]
    queries: int


def compute_full_ranking_map(
    root: Root, judge: RelevanceJudge, run: RetrievalRun, judged: RelevanceResult, config: IndexConfig
) -> FullRankingMap:
    """Over a seeded sample of the judged queries, as large as MOST_SCORES and MOST_QUERIES allow.

    By label and by inner product, so there is none for the metric l2 or for judgements by pairs.
    """
    indexed, rows = judge.indexed, np.flatnonzero(judged.judged)
    count = min(len(rows), MAX_QUERIES, MAX_SCORES // max(indexed.database, 1))
    if judged.source != "label" or config.metric == "l2" or not count:
        return FullRankingMap({}, 0)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(rows)[:count])
    with track("ranking everything", 1) as advance, root.scratch.staging() as staging:
        ids, mapped = write_vector_memmap(root, indexed, "database", indexed.database, staging / "database.npy")
        own = judge.find_own_pairs(run.ids[chosen], ids)
        average_precisions = full_average_precision(run.vectors[chosen], judged.labels[chosen], mapped, judge.labels.lookup(ids), own)
        advance(1)
    return FullRankingMap({"map_full_depth": float(np.nanmean(average_precisions))}, count)


PAIRS_AT_ONCE = 4096
MAX_PAIRS = 1_000_000  # about 100 bytes each


def correlate_scored_pairs(root: Root, embeddings: EmbeddingSet, pairs: FileRef) -> dict[str, dict[str, float | int | None]]:
    """Spearman and Pearson by file and `overall`, over the pairs of which both items have a vector; at most MOST_PAIRS, by their ids.

    The vectors of the items in pairs are laid out in a mapped file.
    """
    sql = f"SELECT file, score, item_a, item_b FROM {parquet.scan_sql(root.file(pairs))} ORDER BY file, item_a, item_b LIMIT {MAX_PAIRS}"
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        parts = [[batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names] for batch in batches]
    if not parts:
        return {}
    files, scores, left, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    with root.scratch.staging() as staging:
        wanted = np.unique([left, right])
        there, mapped = _write_pair_vectors(root, embeddings, wanted, staging / "pairs.npy")
        left, right = np.searchsorted(wanted, left), np.searchsorted(wanted, right)
        both = there[left] & there[right]
        cosine = cosine_similarities(_iterate_pair_vectors(mapped, left[both], right[both]))
    return compute_correlations(cosine, scores[both], files[both].astype(str)) if len(cosine) else {}


def _write_pair_vectors(root: Root, embeddings: EmbeddingSet, wanted: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Which of the wanted items (int64 (n,), ascending) have a vector, on whatever side, and the vectors: rows of a mapped file."""
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (len(wanted), embeddings.dim))
    there = np.zeros(len(wanted), bool)
    for side in ("database", "query"):
        with open_vectors(root, embeddings, side=side) as blocks:
            for ids, block in blocks:
                mine = np.isin(ids, wanted)
                rows = np.searchsorted(wanted, ids[mine])
                mapped[rows], there[rows] = block[mine], True
    return there, mapped


def _iterate_pair_vectors(mapped: np.ndarray, left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(left), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        yield mapped[left[block]], mapped[right[block]]


def evaluate_captions(root: Root, embeddings: EmbeddingSet, *, leaking: bool, most: int, seed: int) -> dict[str, float]:
    """`text_to_image_recall_at_1` and so on, over the query side alone; nothing unless images have captions.

    Candidates are the captions, or the images, of at most `most` held-out items: fewer than the index holds, as is the usage.
    """
    if embeddings.captions is None:
        return {}
    sides = []
    for side in (embeddings.captions, embeddings):
        with open_vectors(root, side, side="query", leaking=leaking, sample=(most, seed)) as blocks:
            sides.append(concatenate_blocks(blocks, side.dim))
    (text_ids, texts), (image_ids, images) = sides
    if not len(text_ids) or not len(image_ids):
        return {}
    return compute_cross_modal_metrics(texts, images, np.asarray(text_ids), np.asarray(image_ids))
