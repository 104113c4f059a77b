"""Metrics of the embedding apart from the index: average precision over full rankings, scored pairs, and cross-modal retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.correlation import compute_correlations, cosine_similarities
from indexmill.tasks.metrics.cross_modal import compute_cross_modal_metrics
from indexmill.tasks.metrics.embedding_space import select_vectors
from indexmill.tasks.metrics.full_ranking import full_average_precision
from indexmill.tasks.progress import track

MAX_SCORES = 200_000_000  # queries times database: about twenty seconds on two cores
MAX_QUERIES = 1000
PAIRS_AT_ONCE = 4096
MAX_PAIRS = 1_000_000  # about 100 bytes each


class FullRankingMap(NamedTuple):
    """mAP over the full ranking: `map_full_depth` or no metric, and the number of queries it is averaged over."""

    metrics: dict[str, float]
    queries: int


def compute_full_ranking_map(
    root: Root, judge: RelevanceJudge, run: RetrievalRun, relevance: RelevanceResult, config: IndexConfig
) -> FullRankingMap:
    """Rank the whole database exactly for a seeded sample of the judged queries, at most MAX_QUERIES and MAX_SCORES.

    Defined for relevance by label and inner-product scores only: no metric for `index.metric: l2`, relevance by pairs, or an index of
    chunks.
    """
    indexed, rows = judge.indexed, np.flatnonzero(relevance.judged)
    count = min(len(rows), MAX_QUERIES, MAX_SCORES // max(indexed.database, 1))
    if relevance.source != "label" or config.metric == "l2" or not count or indexed.chunks:
        return FullRankingMap({}, 0)
    sample = np.sort(np.random.default_rng(config.seed).permutation(rows)[:count])
    with track("ranking the full database", 1) as advance, root.scratch.staging() as staging:
        ids, database = write_database_memmap(root, indexed, staging / "database.npy")
        own_pairs = judge.find_own_pairs(run.query_ids[sample], ids)
        average_precisions = full_average_precision(
            run.query_vectors[sample], relevance.labels[sample], database, judge.labels.lookup(ids), own_pairs
        )
        advance(1)
    return FullRankingMap({"map_full_depth": float(np.nanmean(average_precisions))}, count)


def correlate_scored_pairs(root: Root, embeddings: EmbeddingSet, pairs: FileRef) -> dict[str, dict[str, float | int | None]]:
    """Correlate cosine similarity with the given scores, per file and `overall` (Spearman and Pearson).

    Only pairs count whose items both have a vector; at most MAX_PAIRS, in order of file and item ids. The vectors are kept in a
    memory-mapped file.
    """
    sql = f"SELECT file, score, item_a, item_b FROM {parquet.scan_sql(root.file(pairs))} ORDER BY file, item_a, item_b LIMIT {MAX_PAIRS}"
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        parts = [[batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names] for batch in batches]
    if not parts:
        return {}
    files, scores, left, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    with root.scratch.staging() as staging:
        item_ids = np.unique([left, right])
        has_vector, pair_vectors = _write_pair_vectors(root, embeddings, item_ids, staging / "pairs.npy")
        left, right = np.searchsorted(item_ids, left), np.searchsorted(item_ids, right)
        is_complete = has_vector[left] & has_vector[right]
        cosine = cosine_similarities(_iterate_pair_vectors(pair_vectors, left[is_complete], right[is_complete]))
    return compute_correlations(cosine, scores[is_complete], files[is_complete].astype(str)) if len(cosine) else {}


def evaluate_captions(root: Root, embeddings: EmbeddingSet, *, include_leaks: bool, max_items: int, seed: int) -> dict[str, float]:
    """Measure image-text retrieval on the query side: `text_to_image_recall_at_1` and so on; no metric unless images have captions.

    The candidates are the captions, or the images, of at most `max_items` held-out items, not the whole index, as is customary.
    """
    if embeddings.captions is None:
        return {}
    text_ids, texts = _sample_queries(root, embeddings.captions, include_leaks, max_items, seed)
    image_ids, images = _sample_queries(root, embeddings, include_leaks, max_items, seed)
    if not len(text_ids) or not len(image_ids):
        return {}
    return compute_cross_modal_metrics(texts, images, text_ids, image_ids)


def evaluate_all_captions(root: Root, embeddings: EmbeddingSet, *, max_images: int, seed: int) -> dict[str, float]:
    """Measure image-text retrieval on the whole data set: as `evaluate_captions`, over distinct images and all of their captions.

    Rows with equal images are one image with several captions. The candidates are at most `max_images` images and their captions.
    """
    if embeddings.captions is None:
        return {}
    images, captions = (parquet.scan_sql(root.file(ref)) for ref in (embeddings.items, embeddings.captions.items))
    sampled = (
        f"SELECT content_digest, min(item_id) AS item_id FROM {images} SEMI JOIN {captions} c USING (item_id) "
        f"GROUP BY 1 ORDER BY md5('{seed}/' || content_digest), 1 LIMIT {max_images}"
    )
    image_rows = parquet.fetch_rows(f"SELECT content_digest, item_id FROM ({sampled}) ORDER BY item_id", temp_dir=root.tmp)
    numbers = {digest: number for number, (digest, _) in enumerate(image_rows)}
    caption_sql = (
        f"SELECT c.item_id, i.content_digest FROM {captions} c JOIN {images} i USING (item_id) "
        f"SEMI JOIN ({sampled}) s ON s.content_digest = i.content_digest ORDER BY 1"
    )
    caption_rows = parquet.fetch_rows(caption_sql, temp_dir=root.tmp)
    if not image_rows:
        return {}
    image_vectors = _select_database_vectors(root, embeddings, np.array([item_id for _, item_id in image_rows], np.int64))
    caption_vectors = _select_database_vectors(root, embeddings.captions, np.array([item_id for item_id, _ in caption_rows], np.int64))
    caption_pairs = np.array([numbers[digest] for _, digest in caption_rows], np.int64)
    return compute_cross_modal_metrics(caption_vectors, image_vectors, caption_pairs, np.arange(len(image_rows)))


def _select_database_vectors(root: Root, embeddings: EmbeddingSet, item_ids: np.ndarray) -> np.ndarray:
    """Return the vectors of database items, int64 (n,), ascending, as float32 (n, dim)."""
    with open_vectors(root, embeddings, side="database") as blocks:
        return select_vectors(blocks, item_ids)[1]


def _sample_queries(root: Root, embeddings: EmbeddingSet, include_leaks: bool, max_items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    with open_vectors(root, embeddings, side="query", leaking=include_leaks, sample=(max_items, seed)) as blocks:
        return concatenate_blocks(blocks, embeddings.dim)


def write_database_memmap(root: Root, embeddings: EmbeddingSet, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the database's ids, int64 (n,), ascending, and its vectors, float32 (n, dim), memory-mapped from `path`."""
    ids = np.empty(embeddings.database, np.int64)
    database = np.lib.format.open_memmap(path, "w+", np.float32, (embeddings.database, embeddings.dim))
    start = 0
    with open_vectors(root, embeddings, side="database") as blocks:
        for block_ids, block in blocks:
            stop = start + len(block_ids)
            ids[start:stop], database[start:stop] = block_ids, block
            start = stop
    return ids, database


def _write_pair_vectors(root: Root, embeddings: EmbeddingSet, item_ids: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the items (int64 (n,), ascending) have a vector, on either side, and the memory-mapped vectors (n, dim)."""
    pair_vectors = np.lib.format.open_memmap(path, "w+", np.float32, (len(item_ids), embeddings.dim))
    has_vector = np.zeros(len(item_ids), bool)
    for side in ("database", "query"):
        with open_vectors(root, embeddings, side=side) as blocks:
            for ids, block in blocks:
                in_pairs = np.isin(ids, item_ids)
                rows = np.searchsorted(item_ids, ids[in_pairs])
                pair_vectors[rows], has_vector[rows] = block[in_pairs], True
    return has_vector, pair_vectors


def _iterate_pair_vectors(pair_vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(left), PAIRS_AT_ONCE):
        block = slice(start, start + PAIRS_AT_ONCE)
        yield pair_vectors[left[block]], pair_vectors[right[block]]
