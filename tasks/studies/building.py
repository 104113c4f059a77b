"""An index of a study, built by the pipeline's own training and filling in a folder that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from indexmill.configs.models import IndexConfig, StudiedIndex
from indexmill.storage.embeddings import vectors
from indexmill.storage.index_records import SearchSetting
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexes.factory import METRICS
from indexmill.tasks.indexes.opening import open_searcher
from indexmill.tasks.indexes.reuse import trained_for
from indexmill.tasks.indexes.searcher import Searcher
from indexmill.tasks.indexes.shards import fill_shards
from indexmill.tasks.studies.brute_force import BruteForce, mapped

MAPPED = "vectors.npy"  # of a shard's files, the one that is paged in as it is needed


@dataclass(frozen=True)
class Made:
    """What became of one entry, and what it took. seconds: wall-clock, from the store to finished files; bytes as in `Row`."""

    items: int
    factory: str
    rerank: str
    seconds: float
    cpu_seconds: float
    bytes: int
    mapped_bytes: int


@contextmanager
def built(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig) -> Iterator[tuple[Searcher, Made]]:
    """The index of this config over the database side; its files are gone when the block ends."""
    with root.scratch.staging() as folder:
        place = root.building_in(folder)
        start, cpu = time.perf_counter(), time.process_time()
        trained = trained_for(place, name, embeddings, config, None)
        filled = fill_shards(place, name, embeddings, trained, "database", config, (), lambda finished: None)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        searcher = open_searcher(filled.shards, place.file, config.metric, SearchSetting(spill=trained.spill))
        vectors_beside = sum(ref.size for shard in filled.shards for suffix, ref in shard.vectors.items() if suffix == MAPPED)
        held = sum(ref.size for shard in filled.shards for ref in (shard.index, *shard.vectors.values()))
        yield searcher, Made(searcher.items, trained.factory, trained.rerank, seconds, cpu_seconds, held - vectors_beside, vectors_beside)


@contextmanager
def brute_force(root: Root, embeddings: EmbeddingSet, metric: str) -> Iterator[tuple[BruteForce, Made]]:
    """Brute force over the database side. Its vectors are mapped here; `bytes` counts them, as arrays in memory."""
    with root.scratch.staging() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        with vectors(root, embeddings, side="database") as blocks:
            ids, database = mapped(blocks, embeddings.database, embeddings.dim, Path(folder) / MAPPED)
        searching = BruteForce(ids, database, METRICS[metric])
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        yield searching, Made(len(ids), "NumPy", "none", seconds, cpu_seconds, ids.nbytes + database.nbytes, 0)


def index_config(config: IndexConfig, entry: StudiedIndex) -> IndexConfig:
    """The pipeline's index section with an entry of the study in the place of its family and widths."""
    own = {"nprobe": None, "ef_search": None, "candidates": entry.candidates, "rerank": entry.rerank}
    return config.model_copy(update={"factory": entry.factory, **own})
