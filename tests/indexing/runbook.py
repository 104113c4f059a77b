"""A runbook of twelve builds: 0 to 3 are quiet, in 4 to 8 new clusters appear and others shrink, 9 to 11 are quiet
again.

After the streaming track of big-ann-benchmarks (NeurIPS 2023), whose clustered runbooks insert and delete cluster by
cluster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.root import Root
from tests.indexing.nightly import Database, draw_centers, draw_clustered, make_searcher, normalize, read_ids, run_build

BUILDS, DRIFTING = 12, range(4, 9)


@dataclass(frozen=True)
class BuildResult:
    """One build, and how it compares with a build from scratch. Seconds are CPU time of training and sharding."""

    items: int
    reason: str
    built: int
    updated: int
    reused: int
    seconds: float
    fresh_seconds: float
    ids_equal: bool
    exact_equal: bool
    recall: float
    fresh_recall: float


def play(root: Root, config: IndexConfig, *, items: int, dim: int, clusters: int, nprobe: int, queries: int) -> Iterator[BuildResult]:
    """Run twelve builds on `items` vectors around `clusters` centers; yield each build, compared with a fresh one."""
    database = Database(root, dim)
    random = database.random
    old, new = draw_centers(random, clusters, dim), draw_centers(random, clusters, dim)
    database.insert(draw_clustered(random, old, items))
    last: TrainedIndex | None = None
    previous: Sequence[Shard] = ()
    for number in range(BUILDS):
        start = time.process_time()
        last, filled = run_build(root, "nightly", database, config, last, previous)
        previous, middle = filled.shards, time.process_time()
        fresh = run_build(root, f"fresh-{number}", database, config)[1]
        seconds = middle - start, time.process_time() - middle
        query_vectors = _draw_queries(database, queries)
        exact = _search_exactly(database, query_vectors)
        searchers = [make_searcher(root, build, config, nprobe) for build in (filled, fresh)]
        recalls = [_compute_recall(searcher.search(query_vectors, 10)[1], exact) for searcher in searchers]
        ids = np.sort(np.concatenate([read_ids(root, shard) for shard in filled.shards]))
        exhaustive = make_searcher(root, filled, config, nprobe=2**20).search(query_vectors, 10)[1]
        yield BuildResult(
            items=len(database.ids),
            reason=last.reason,
            built=filled.built,
            updated=filled.updated,
            reused=filled.reused,
            seconds=seconds[0],
            fresh_seconds=seconds[1],
            ids_equal=bool(np.array_equal(ids, np.sort(database.ids))),
            exact_equal=_compute_recall(exhaustive, exact) > 0.9995,
            recall=recalls[0],
            fresh_recall=recalls[1],
        )
        _change(database, old, new, number + 1)


def _change(database: Database, old: np.ndarray, new: np.ndarray, number: int) -> None:
    """Change the database before a build.

    Quiet: 2 % are inserted, and every third time 1 % are deleted and 1 % replaced.
    Drifting: 8 % are inserted from new clusters, and 4 % are deleted.
    """
    random, size = database.random, len(database.ids)
    if number in DRIFTING:
        seen = len(new) * (number - DRIFTING.start + 1) // len(DRIFTING)
        database.insert(draw_clustered(random, new[:seen], size * 8 // 100))
        database.delete(database.draw_rows(size * 4 // 100))
        return
    known = np.concatenate([old, new]) if number >= DRIFTING.stop else old
    if number % 3 == 0:
        database.delete(database.draw_rows(size // 100))
        database.replace(database.draw_rows(size // 100), draw_clustered(random, known, size // 100))
    database.insert(draw_clustered(random, known, size * 2 // 100))


def _draw_queries(database: Database, count: int) -> np.ndarray:
    """Draw queries near random items, so that they follow the data."""
    items = database.vectors[database.draw_rows(count)]
    return normalize(items + 0.2 / np.sqrt(database.dim) * database.random.standard_normal((count, database.dim)))


def _search_exactly(database: Database, queries: np.ndarray) -> np.ndarray:
    return database.ids[faiss.knn(queries, database.vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)[1]]


def _compute_recall(retrieved: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(row, exact_row)) / 10 for row, exact_row in zip(retrieved, exact, strict=True)]))
