"""Build and measure every index of a study for one encoder, brute force first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexmill.configs.models import IndexConfig, PipelineConfig, StudyIndexConfig
from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.extra_metrics import write_database_memmap
from indexmill.tasks.indexing.auto_factory import DEFAULT_RECALL_TARGET
from indexmill.tasks.indexing.chunk_search import load_chunk_map
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.indexing.searcher import DEFAULT_RERANK_CANDIDATES, Searcher
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.training import reuse_or_train
from indexmill.tasks.indexing.tuning import tune_search
from indexmill.tasks.metrics.latency import bytes_per_vector
from indexmill.tasks.progress import track
from indexmill.tasks.studies.brute_force import BruteForce
from indexmill.tasks.studies.plan import get_recall_targets, make_index_config, plan_indexes, plan_widths
from indexmill.tasks.studies.queries import QuerySet, load_query_set
from indexmill.tasks.studies.results import EncodeStats, SearchMeasurements, StudyRow, mark_best_rows

BRUTE_FORCE = "NumPy"
VECTORS_FILE = "vectors.npy"  # the file of a shard that is paged in as needed, not loaded


@dataclass(frozen=True)
class BuildStats:
    """A built index, and the cost of building it. Seconds are wall-clock, from store to finished files; bytes as in `StudyRow`."""

    vectors: int
    factory: str
    rerank: str
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    mapped_bytes: int


def run_study(root: Root, encoder: str, config: PipelineConfig, embeddings: EmbeddingSet, encode_stats: EncodeStats) -> list[StudyRow]:
    """Return all rows of one encoder. Indexes are built one after another, and only one is on disk at a time.

    Args:
        root: The storage root.
        encoder: The encoder's name in the rows.
        config: The pipeline, with this encoder.
        embeddings: The vectors of all items.
        encode_stats: The cost of encoding them.
    """
    indexed = embeddings.for_modality(config.index.modality)
    entries = plan_indexes(config.study, indexed.indexed_vectors.database, indexed.dim)
    rows = []
    with track(f"comparing indexes, {encoder}", len(entries) + 1) as advance:
        query_set = load_query_set(root, config, embeddings)
        common_columns = {
            "encoder": encoder,
            "dim": indexed.dim,
            "database": indexed.database,
            "queries": len(query_set.queries),
            "encoded": encode_stats.encoded,
            "encode_seconds": encode_stats.seconds,
            "encode_rate_from_profile": encode_stats.rate_from_profile,
            "encode_items_per_second": encode_stats.items_per_second,
        }
        with build_brute_force(root, indexed, config.index.metric) as (brute_force, stats):
            rows.append(_make_row(common_columns, BRUTE_FORCE, stats, SearchParams(), None, query_set.measure_search(brute_force)))
        advance(1)
        for entry in entries:
            with build_study_index(root, config.name, indexed, make_index_config(config.index, entry)) as (searcher, stats):
                for params, target in _iterate_search_params(entry, searcher, query_set, config.index):
                    rows.append(_make_row(common_columns, entry.factory, stats, params, target, query_set.measure_search(searcher)))
            advance(1)
    return mark_best_rows(rows, config.index.recall_target or DEFAULT_RECALL_TARGET)


@contextmanager
def build_study_index(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig) -> Iterator[tuple[Searcher, BuildStats]]:
    """Build an index over the database side. Its files are deleted when the block ends."""
    chunks, embeddings = load_chunk_map(root, embeddings), embeddings.indexed_vectors
    with root.scratch.staging() as folder:
        temporary_root = root.with_index_dir(folder)
        start, cpu_start = time.perf_counter(), time.process_time()
        trained = reuse_or_train(temporary_root, name, embeddings, config, None)
        build = build_shards(temporary_root, name, embeddings, trained, config)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        searcher = open_searcher(build.shards, temporary_root.file, config.metric, SearchParams(spill=trained.spill), chunks)
        mapped_bytes = sum(ref.size for shard in build.shards for suffix, ref in shard.vectors.items() if suffix == VECTORS_FILE)
        total_bytes = sum(ref.size for shard in build.shards for ref in (shard.index, *shard.vectors.values()))
        yield (
            searcher,
            BuildStats(
                vectors=searcher.vectors,
                factory=trained.factory,
                rerank=trained.rerank,
                seconds=seconds,
                cpu_seconds=cpu_seconds,
                memory_bytes=total_bytes - mapped_bytes,
                mapped_bytes=mapped_bytes,
            ),
        )


@contextmanager
def build_brute_force(root: Root, embeddings: EmbeddingSet, metric: str) -> Iterator[tuple[BruteForce, BuildStats]]:
    """Prepare brute force over the database side. The vectors are memory-mapped here, but count as arrays in memory."""
    chunks, embeddings = load_chunk_map(root, embeddings), embeddings.indexed_vectors
    with root.scratch.staging() as folder:
        start, cpu_start = time.perf_counter(), time.process_time()
        ids, database = write_database_memmap(root, embeddings, Path(folder) / VECTORS_FILE)
        brute_force = BruteForce(ids, database, FAISS_METRICS[metric], chunks)
        yield (
            brute_force,
            BuildStats(
                vectors=len(ids),
                factory=BRUTE_FORCE,
                rerank="none",
                seconds=time.perf_counter() - start,
                cpu_seconds=time.process_time() - cpu_start,
                memory_bytes=ids.nbytes + database.nbytes,
                mapped_bytes=0,
            ),
        )


def _iterate_search_params(
    entry: StudyIndexConfig, searcher: Searcher, query_set: QuerySet, config: IndexConfig
) -> Iterator[tuple[SearchParams, float | None]]:
    """Set the searcher's parameters one after another; yields each with the recall target it was tuned for."""
    search_param, max_width = searcher.search_param, searcher.search_param_max
    rerank_candidates = (entry.rerank_candidates or config.rerank_candidates or DEFAULT_RERANK_CANDIDATES) if searcher.stores else None
    if not search_param:
        yield SearchParams(), None
    elif targets := get_recall_targets(entry):
        for target in targets:
            yield tune_search(searcher, query_set.tuning_queries, query_set.tuning_exact_ids, target).chosen.params, target
    else:
        for width in plan_widths(entry, search_param, max_width):
            params = SearchParams(**{search_param: width}, rerank_candidates=rerank_candidates)
            searcher.set_search_params(params)
            yield params, None


def _make_row(
    common_columns: dict[str, Any],
    index: str,
    stats: BuildStats,
    params: SearchParams,
    target: float | None,
    measurements: SearchMeasurements,
) -> StudyRow:
    param_columns = {"nprobe": params.nprobe, "ef_search": params.ef_search, "rerank_candidates": params.rerank_candidates}
    columns = common_columns | param_columns | measurements.model_dump()
    columns |= {
        "index": index,
        "factory": stats.factory,
        "rerank": stats.rerank,
        "recall_target": target,
        "params": ", ".join(f"{name} {value}" for name, value in param_columns.items() if value is not None),
        "build_seconds": stats.seconds,
        "build_cpu_seconds": stats.cpu_seconds,
        "memory_bytes": stats.memory_bytes,
        "mapped_bytes": stats.mapped_bytes,
        "bytes_per_vector": bytes_per_vector([stats.memory_bytes], stats.vectors),
    }
    return StudyRow.model_validate(columns)
