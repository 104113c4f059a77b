"""Build and measure every index of a study for one encoder, brute force first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from indexmill.configs.models import IndexConfig, PipelineConfig, StudyIndexConfig
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.auto_factory import DEFAULT_RECALL_TARGET
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.indexing.searcher import DEFAULT_RERANK_CANDIDATES, Searcher
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.training import reuse_or_train
from indexmill.tasks.indexing.tuning import tune_search
from indexmill.tasks.metrics.latency import bytes_per_vector
from indexmill.tasks.progress import track
from indexmill.tasks.studies.brute_force import BruteForce, write_memmap
from indexmill.tasks.studies.plan import get_recall_targets, plan_indexes, plan_widths
from indexmill.tasks.studies.queries import QuerySet, load_query_set
from indexmill.tasks.studies.results import EncodeStats, SearchMeasurements, StudyRow, mark_best_rows

VECTORS_FILE = "vectors.npy"  # of a shard's files, the one that is paged in as it is needed


@dataclass(frozen=True)
class BuildStats:
    """What became of one entry, and what it took. seconds: wall-clock, from the store to finished files; bytes as in `StudyRow`."""

    items: int
    factory: str
    rerank: str
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    mapped_bytes: int


@contextmanager
def build_study_index(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig) -> Iterator[tuple[Searcher, BuildStats]]:
    """The index of this config over the database side; its files are gone when the block ends."""
    with root.scratch.staging() as folder:
        temporary_root = root.with_index_dir(folder)
        start, cpu = time.perf_counter(), time.process_time()
        trained = reuse_or_train(temporary_root, name, embeddings, config, None)
        filled = build_shards(temporary_root, name, embeddings, trained, config)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        searcher = open_searcher(filled.shards, temporary_root.file, config.metric, SearchParams(spill=trained.spill))
        vectors_beside = sum(ref.size for shard in filled.shards for suffix, ref in shard.vectors.items() if suffix == VECTORS_FILE)
        held = sum(ref.size for shard in filled.shards for ref in (shard.index, *shard.vectors.values()))
        yield (
            searcher,
            BuildStats(searcher.items, trained.factory, trained.rerank, seconds, cpu_seconds, held - vectors_beside, vectors_beside),
        )


@contextmanager
def build_brute_force(root: Root, embeddings: EmbeddingSet, metric: str) -> Iterator[tuple[BruteForce, BuildStats]]:
    """Brute force over the database side. Its vectors are mapped here; `memory_bytes` counts them, as arrays in memory."""
    with root.scratch.staging() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        with open_vectors(root, embeddings, side="database") as blocks:
            ids, database = write_memmap(blocks, embeddings.database, embeddings.dim, Path(folder) / VECTORS_FILE)
        searching = BruteForce(ids, database, FAISS_METRICS[metric])
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        yield searching, BuildStats(len(ids), "NumPy", "none", seconds, cpu_seconds, ids.nbytes + database.nbytes, 0)


def make_index_config(config: IndexConfig, entry: StudyIndexConfig) -> IndexConfig:
    """The pipeline's index section with an entry of the study in the place of its family and widths."""
    own = {"nprobe": None, "ef_search": None, "rerank_candidates": entry.rerank_candidates, "rerank": entry.rerank}
    return config.model_copy(update={"factory": entry.factory, **own})


BRUTE_FORCE = "NumPy"


def run_study(root: Root, encoder: str, config: PipelineConfig, embeddings: EmbeddingSet, encode_stats: EncodeStats) -> list[StudyRow]:
    """All rows of one encoder, which is called `encoder` in them. Indexes are built one after another; one is on disk at a time."""
    held = embeddings.for_modality(config.index.modality)
    wanted = plan_indexes(config.study, held.database, held.dim)
    rows = []
    with track(f"comparing indexes, {encoder}", len(wanted) + 1) as advance:
        query_set = load_query_set(root, config, embeddings)
        about = {"encoder": encoder, "dim": held.dim, "database": held.database, "queries": len(query_set.queries)}
        about |= {
            "encoded": encode_stats.encoded,
            "encode_seconds": encode_stats.seconds,
            "encode_rate_from_profile": encode_stats.rate_from_profile,
        }
        about |= {"encode_items_per_second": encode_stats.items_per_second}
        with build_brute_force(root, held, config.index.metric) as (searching, stats):
            rows.append(_make_row(about, BRUTE_FORCE, stats, SearchParams(), None, query_set.measure(searching)))
        advance(1)
        for entry in wanted:
            with build_study_index(root, config.name, held, make_index_config(config.index, entry)) as (searcher, stats):
                for params, target in _iterate_settings(entry, searcher, query_set, config.index):
                    rows.append(_make_row(about, entry.factory, stats, params, target, query_set.measure(searcher)))
            advance(1)
    return mark_best_rows(rows, config.index.recall_target or DEFAULT_RECALL_TARGET)


def _iterate_settings(
    entry: StudyIndexConfig, searcher: Searcher, query_set: QuerySet, config: IndexConfig
) -> Iterator[tuple[SearchParams, float | None]]:
    """Set the searcher one way after another; yields each setting, and the recall that it was tuned for."""
    search_param, widest = searcher.search_param, searcher.search_param_max
    rerank_candidates = (entry.rerank_candidates or config.rerank_candidates or DEFAULT_RERANK_CANDIDATES) if searcher.stores else None
    if not search_param:
        yield SearchParams(), None
    elif tuned_for := get_recall_targets(entry):
        for target in tuned_for:
            yield tune_search(searcher, *query_set.tuning, target).chosen.params, target
    else:
        for width in plan_widths(entry, search_param, widest):
            params = SearchParams(**{search_param: width}, rerank_candidates=rerank_candidates)
            searcher.set_search_params(params)
            yield params, None


def _make_row(
    about: dict[str, object], index: str, stats: BuildStats, params: SearchParams, target: float | None, figures: SearchMeasurements
) -> StudyRow:
    looked = {"nprobe": params.nprobe, "ef_search": params.ef_search, "rerank_candidates": params.rerank_candidates}
    return StudyRow.model_validate(
        about | looked | figures.model_dump() | {
            "index": index, "factory": stats.factory, "rerank": stats.rerank, "recall_target": target,
            "params": ", ".join(f"{name} {value}" for name, value in looked.items() if value is not None),
            "build_seconds": stats.seconds, "build_cpu_seconds": stats.cpu_seconds, "memory_bytes": stats.memory_bytes, "mapped_bytes": stats.mapped_bytes,
            "bytes_per_vector": bytes_per_vector([stats.memory_bytes], stats.items),
        }
    )  # fmt: skip
