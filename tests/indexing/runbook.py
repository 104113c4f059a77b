"""The runbook: nights 0 to 3 are quiet; in nights 4 to 8 clusters come that nobody saw before, and others go; 9 to 11 are quiet again.

After the streaming track of big-ann-benchmarks (NeurIPS 2023), whose clustered runbooks insert and delete cluster by cluster.
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
from tests.indexing.nightly import Database, centres, clustered, held, night, searcher

NIGHTS, DRIFTING = 12, range(4, 9)


@dataclass(frozen=True)
class Night:
    """One night: what was done, how long it took, and how it compares with a build from nothing. Seconds: train and shard, wall."""

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


def play(root: Root, config: IndexConfig, *, items: int, dim: int, clusters: int, nprobe: int, queries: int) -> Iterator[Night]:
    """Twelve nights on `items` vectors around `clusters` centres, compared with a fresh build in a root of its own."""
    database = Database(root, dim)
    random = database.random
    old, new = centres(random, clusters, dim), centres(random, clusters, dim)
    database.insert(clustered(random, old, items))
    last: TrainedIndex | None = None
    previous: Sequence[Shard] = ()
    for number in range(NIGHTS):
        start = time.perf_counter()
        last, filled = night(root, "nightly", database, config, last, previous)
        previous, middle = filled.shards, time.perf_counter()
        fresh = night(root, f"fresh-{number}", database, config)[1]
        seconds = middle - start, time.perf_counter() - middle
        asked = _queries(database, queries)
        exact = _exact(database, asked)
        recalls = [_recall(searcher(root, found, config, nprobe).search(asked, 10)[1], exact) for found in (filled, fresh)]
        ids = np.sort(np.concatenate([held(root, shard) for shard in filled.shards]))
        whole = searcher(root, filled, config, nprobe=2**20).search(asked, 10)[1]
        yield Night(
            items=len(database.ids), reason=last.reason, built=filled.built, updated=filled.updated, reused=filled.reused,
            seconds=seconds[0], fresh_seconds=seconds[1], ids_equal=bool(np.array_equal(ids, np.sort(database.ids))),
            exact_equal=_recall(whole, exact) > 0.9995, recall=recalls[0], fresh_recall=recalls[1],
        )  # fmt: skip
        _change(database, old, new, number + 1)


def _change(database: Database, old: np.ndarray, new: np.ndarray, number: int) -> None:
    """What happens before a night. A quiet one: 2 % come, and on every third 1 % go and 1 % are replaced.

    A drifting one: 8 % come from new clusters, and 4 % go.
    """
    random, size = database.random, len(database.ids)
    if number in DRIFTING:
        seen = len(new) * (number - DRIFTING.start + 1) // len(DRIFTING)
        database.insert(clustered(random, new[:seen], size * 8 // 100))
        database.delete(database.some(size * 4 // 100))
        return
    known = np.concatenate([old, new]) if number >= DRIFTING.stop else old
    if number % 3 == 0:
        database.delete(database.some(size // 100))
        database.replace(database.some(size // 100), clustered(random, known, size // 100))
    database.insert(clustered(random, known, size * 2 // 100))


def _queries(database: Database, count: int) -> np.ndarray:
    """Neighbours of random items, so that queries come from where the data are now."""
    found = database.vectors[database.some(count)] + 0.2 / np.sqrt(database.dim) * database.random.standard_normal((count, database.dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def _exact(database: Database, queries: np.ndarray) -> np.ndarray:
    return database.ids[faiss.knn(queries, database.vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)[1]]


def _recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(mine, right)) / 10 for mine, right in zip(found, exact, strict=True)]))
