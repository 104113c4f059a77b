"""Shards: one side of the data in FAISS files, each named by what it holds, so that equal shards are made once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import faiss

from indexmill.configs.models import IndexConfig
from indexmill.storage import tables
from indexmill.storage.digests import json_digest
from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexes.assignment import Slot, assign, room
from indexmill.tasks.indexes.factory import ivf_of
from indexmill.tasks.indexes.files import read_index
from indexmill.tasks.indexes.pool import pooled, whole
from indexmill.tasks.indexes.updates import Job, make_shard
from indexmill.tasks.progress import Advance

AT_ONCE = 4  # shards in hand, and so in memory, at most


@dataclass(frozen=True)
class Filled:
    """The shards of one side, and how many of them were built from nothing, updated, or taken as they were."""

    shards: tuple[Shard, ...]
    built: int
    updated: int
    reused: int


def fill_shards(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, side: Side, config: IndexConfig,
    previous: Sequence[Shard], advance: Advance, *, share: float = 1.0,
) -> Filled:  # fmt: skip
    """The side's items in shards. previous: the side's shards of the last night, whose items stay where they are.

    share: the part of `index.shards` that this side gets. Several shards are made at a time; one that is in the pool already is taken.
    """
    items = {"database": embeddings.database, "query": embeddings.query}[side]
    count = config.shards if config.shards == "auto" else max(1, round(config.shards * share))
    space = room(count, items, int(config.shard_bytes) // _bytes_an_item(root, trained))
    with root.scratch.staging() as folder:
        plan = folder / "plan.parquet"
        stood = [whole(root, shard.rows) for shard in previous]
        slots = assign(root.file(embeddings.items), side, stood, space, plan, spill=root.tmp)
        jobs = [
            _job(root, trained, side, number, slot, previous, plan, folder / f"{number}.parquet")
            for number, slot in enumerate(slots)
        ]  # fmt: skip
        return _done(root, name, embeddings, trained, jobs, advance)


def _bytes_an_item(root: Root, trained: TrainedIndex) -> int:
    return bytes_an_item(read_index(root.file(trained.index), trained.index)) * (2 if trained.spill else 1)


def bytes_an_item(index: faiss.Index) -> int:
    """About how many bytes of memory an item takes in an index: its code, its id, and in a graph its links."""
    inner = ivf_of(index) or (faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index)
    if isinstance(inner, faiss.IndexHNSW):
        return int(bytes_an_item(faiss.downcast_index(inner.storage)) + 4 * inner.hnsw.nb_neighbors(0))  # type: ignore[attr-defined]
    return int(getattr(inner, "code_size", 4 * index.d)) + 8


def _job(
    root: Root, trained: TrainedIndex, side: Side, number: int, slot: Slot, previous: Sequence[Shard], plan: Path,
    rows: Path,
) -> Job:  # fmt: skip
    """What is to be done for one slot. Its key is the digest of the training and of the ids and contents that it holds."""
    base = previous[slot.number] if slot.number < len(previous) else None
    tables.copy(f"SELECT * EXCLUDE slot FROM {tables.parquet(plan)} WHERE slot = {slot.number} ORDER BY item_id", rows, spill=root.tmp)
    held = tables.digest(rows, ["item_id", "content_digest"])
    key = json_digest([trained.digest, side, trained.rerank, held])
    return Job(side=side, number=number, key=key, rows=rows, items=slot.items, added=slot.added, base=base, rerank=trained.rerank)


def _done(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, jobs: Sequence[Job], advance: Advance
) -> Filled:  # fmt: skip
    """All jobs, `workers` at a time, which share the cores: FAISS lets go of Python's lock while it works."""
    cores = min(os.cpu_count() or 1, int(faiss.omp_get_max_threads()))
    workers = max(1, min(AT_ONCE, cores, len(jobs)))
    # A graph's links depend on the order in which threads come to them; with one thread the same inputs give the same bytes.
    threads = max(1, cores // workers) if trained.lists else 1

    def work(job: Job) -> tuple[Shard, str]:
        if shard := pooled(root, name, job.key):
            return shard, "reused"
        faiss.omp_set_num_threads(threads)  # of this thread's own work
        shard, updated = make_shard(root, name, embeddings, trained, job)
        return shard, "updated" if updated else "built"

    made: list[tuple[Shard, str]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
        futures: list[Future[tuple[Shard, str]]] = [pool.submit(work, job) for job in jobs]
        try:
            for future, job in zip(futures, jobs, strict=True):
                shard, how = future.result()
                made.append((shard.model_copy(update={"number": job.number}), how))
                advance(job.items)
        finally:
            pool.shutdown(cancel_futures=True)
    counts = {how: sum(done == how for _, done in made) for how in ("built", "updated", "reused")}
    return Filled(shards=tuple(shard for shard, _ in made), **counts)
