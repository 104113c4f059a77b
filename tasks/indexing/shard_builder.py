"""Build the shards of one side, each keyed by the digest of its content so that equal shards are built once.

A shard is built from scratch or from its previous version, which is never changed (copy on write). Inverted lists support 64-bit ids,
removal and addition, so such a shard is read, updated and written under its new key. Other families (Flat, HNSW) are rebuilt: HNSW cannot
remove, and for Flat copying the rest costs as much as filling."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig, Rerank
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import find_ivf
from indexmill.tasks.indexing.reranking import VectorBlocks, list_suffixes, write_vectors
from indexmill.tasks.indexing.shard_layout import ShardAssignment, assign_items, plan_capacity
from indexmill.tasks.indexing.shard_store import load_shard, read_index, verify_or_none, write_index
from indexmill.tasks.indexing.soar import fill_index as scanned
from indexmill.tasks.indexing.soar import update
from indexmill.tasks.progress import Advance


def remove_vectors(index: faiss.Index, ids: np.ndarray) -> int:
    """Remove every vector with one of these ids (int64) from an index with lists; the number removed."""
    removed = int(index.remove_ids(ids))  # type: ignore[arg-type]  # FAISS takes arrays too
    ivf = find_ivf(index)
    if ivf is not None and ivf.invlists is not None:
        _clear_block_tails(faiss.downcast_InvertedLists(ivf.invlists))
    return removed


def _clear_block_tails(lists: Any) -> None:
    """Zero the free places of each list's last block, where lists keep their codes in blocks.

    Fast-scan lists do, 32 codes a block, and adding sets bits without clearing those that are there: after a removal FAISS 1.15 leaves
    old codes behind the end of a list, and what is added next would be a mixture of two vectors.
    """
    if not isinstance(lists, faiss.BlockInvertedLists):  # type: ignore[attr-defined]
        return
    packer = lists.packer
    nothing = np.zeros(packer.code_size, np.uint8)
    for number in range(lists.nlist):
        full, used = divmod(lists.list_size(number), packer.nvec)
        if used:
            blocks = faiss.rev_swig_ptr(lists.get_codes(number), (full + 1) * packer.block_size).reshape(full + 1, packer.block_size)
            for position in range(used, packer.nvec):
                packer.pack_1(nothing, position, blocks[-1:])


MAX_CHANGED_FRACTION = 0.5  # past this share of changes a shard is filled anew


@dataclass(frozen=True)
class ShardPlan:
    """One shard to be made. rows: its table (item_id, content_digest, side, added). added: how many rows are new against `base_shard`."""

    side: Side
    number: int
    key: str
    rows: Path
    items: int
    added: int
    base_shard: Shard | None
    rerank: Rerank


def build_shard(root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, shard_plan: ShardPlan) -> tuple[Shard, bool]:
    """The shard, written into the pool, its record last; and whether it is an update of `shard_plan.base_shard`.

    Memory: the FAISS index of this one shard, its ids, and one block of vectors.
    """
    base_shard = _find_reusable_base(root, trained, shard_plan)
    with ExitStack() as files:
        temporary = {
            suffix: files.enter_context(root.replace_atomically(root.shard_path(name, shard_plan.key, suffix)))
            for suffix in ("rows.parquet", *list_suffixes(shard_plan.rerank))
        }
        parquet.copy_query(
            f"SELECT item_id, content_digest FROM {parquet.scan_sql(shard_plan.rows)} ORDER BY item_id",
            temporary["rows.parquet"],
            temp_dir=root.tmp,
        )
        index = _fill_index(root, embeddings, trained, shard_plan, base_shard)
        if shard_plan.rerank != "none":
            _write_vectors(root, embeddings, trained, shard_plan, temporary, base_shard)
        ref = write_index(index, root, root.shard_path(name, shard_plan.key, "faiss"))
    written = {suffix: root.make_ref(root.shard_path(name, shard_plan.key, suffix)) for suffix in temporary}
    shard = Shard(
        side=shard_plan.side, number=shard_plan.number, count=shard_plan.items, key=shard_plan.key, trained=trained.digest, index=ref,
        rows=written.pop("rows.parquet"), vectors=written,
    )  # fmt: skip
    root.write_record(root.shard_path(name, shard_plan.key, "json"), shard)
    return shard, base_shard is not None


def _find_reusable_base(root: Root, trained: TrainedIndex, shard_plan: ShardPlan) -> Shard | None:
    """The earlier shard, if starting from it is right (same training, native ids, whole files) and saves work."""
    base_shard = shard_plan.base_shard
    if (
        base_shard is None
        or base_shard.trained != trained.digest
        or not trained.lists
        or set(base_shard.vectors) != set(list_suffixes(shard_plan.rerank))
    ):
        return None
    changes = shard_plan.added + base_shard.count - (shard_plan.items - shard_plan.added)
    if changes > MAX_CHANGED_FRACTION * shard_plan.items or not all(verify_or_none(root, ref) for ref in base_shard.files):
        return None
    return base_shard


def _fill_index(
    root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, shard_plan: ShardPlan, base_shard: Shard | None
) -> faiss.Index:
    """The empty trained index, or the earlier shard without what left it, with what is new added."""
    empty = read_index(root.file(trained.index), trained.index)
    index = read_index(root.file(base_shard.index), base_shard.index) if base_shard else empty
    if base_shard and len(gone := _read_removed_ids(root, shard_plan, base_shard)):
        remove_vectors(index, gone)
    with read_new_vectors(root, embeddings, shard_plan, whole_shard=base_shard is None) as blocks:
        if trained.fast_scan:
            added = scanned(empty, blocks, spill=trained.spill)
            if base_shard is None:
                return added
            update(index, added, np.empty(0, np.int64))
            return index
        for ids, block in blocks:
            index.add_with_ids(block, ids)
    return index


def _read_removed_ids(root: Root, shard_plan: ShardPlan, base_shard: Shard) -> np.ndarray:
    """int64 ids that the earlier shard holds and this one shall not, or with another content."""
    gone = (
        f"SELECT item_id FROM {parquet.scan_sql(root.file(base_shard.rows))} "
        f"ANTI JOIN (FROM {parquet.scan_sql(shard_plan.rows)} WHERE NOT added) USING (item_id) ORDER BY item_id"
    )
    with parquet.query(gone, temp_dir=root.tmp) as batches:
        return np.concatenate([np.empty(0, np.int64), *(batch.column(0).to_numpy() for batch in batches)])


def _write_vectors(
    root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, shard_plan: ShardPlan, targets: dict[str, Path], base_shard: Shard | None
) -> None:
    """The files for re-ranking: what is new from the embedding store, the rest from the earlier shard's."""
    with parquet.query(f"SELECT item_id FROM {parquet.scan_sql(shard_plan.rows)} ORDER BY item_id", temp_dir=root.tmp) as batches:
        ids = np.concatenate([batch.column(0).to_numpy() for batch in batches])
    old = {suffix: root.file(ref) for suffix, ref in base_shard.vectors.items()} if base_shard else None
    bounds = np.load(root.verify_file(trained.bounds)) if trained.bounds else None
    with read_new_vectors(root, embeddings, shard_plan, whole_shard=base_shard is None) as blocks:
        write_vectors(targets, ids, blocks, embeddings.dim, shard_plan.rerank, old, bounds)


@contextmanager
def read_new_vectors(root: Root, embeddings: EmbeddingSet, shard_plan: ShardPlan, *, whole_shard: bool) -> Iterator[VectorBlocks]:
    """The vectors of the job's new rows, or of all of them, in blocks: read through a table of items that holds these rows alone."""
    with root.scratch.staging() as folder:
        wanted = shard_plan.rows
        if not whole_shard:
            wanted = folder / "added.parquet"
            parquet.copy_query(f"FROM {parquet.scan_sql(shard_plan.rows)} WHERE added ORDER BY item_id", wanted, temp_dir=root.tmp)
        view = embeddings.model_copy(update={"items": root.make_ref(wanted, digest=False)})
        with open_vectors(root, view, side=shard_plan.side) as blocks:
            yield blocks


MAX_CONCURRENT_SHARDS = 4  # shards in hand, and so in memory, at most


@dataclass(frozen=True)
class ShardBuild:
    """The shards of one side, and how many of them were built from nothing, updated, or taken as they were."""

    shards: tuple[Shard, ...]
    built: int
    updated: int
    reused: int


def build_shards(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, side: Side, config: IndexConfig,
    previous: Sequence[Shard], advance: Advance, *, share: float = 1.0,
) -> ShardBuild:  # fmt: skip
    """The side's items in shards. previous: the side's shards of the last night, whose items stay where they are.

    share: the part of `index.shards` that this side gets. Several shards are made at a time; one that is in the pool already is taken.
    """
    items = {"database": embeddings.database, "query": embeddings.query}[side]
    count = config.shards if config.shards == "auto" else max(1, round(config.shards * share))
    space = plan_capacity(count, items, int(config.shard_bytes) // _estimate_bytes_per_item(root, trained))
    with root.scratch.staging() as folder:
        plan = folder / "plan.parquet"
        stood = [verify_or_none(root, shard.rows) for shard in previous]
        slots = assign_items(root.file(embeddings.items), side, stood, space, plan, temp_dir=root.tmp)
        shard_plans = [
            _plan_shard(root, trained, side, number, slot, previous, plan, folder / f"{number}.parquet")
            for number, slot in enumerate(slots)
        ]  # fmt: skip
        return _build_all(root, name, embeddings, trained, shard_plans, advance)


def _estimate_bytes_per_item(root: Root, trained: TrainedIndex) -> int:
    return estimate_bytes_per_item(read_index(root.file(trained.index), trained.index)) * (2 if trained.spill else 1)


def estimate_bytes_per_item(index: faiss.Index) -> int:
    """About how many bytes of memory an item takes in an index: its code, its id, and in a graph its links."""
    inner = find_ivf(index) or (faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index)
    if isinstance(inner, faiss.IndexHNSW):
        return int(estimate_bytes_per_item(faiss.downcast_index(inner.storage)) + 4 * inner.hnsw.nb_neighbors(0))  # type: ignore[attr-defined]
    return int(getattr(inner, "code_size", 4 * index.d)) + 8


def _plan_shard(
    root: Root, trained: TrainedIndex, side: Side, number: int, slot: ShardAssignment, previous: Sequence[Shard], plan: Path,
    rows: Path,
) -> ShardPlan:  # fmt: skip
    """What is to be done for one slot. Its key is the digest of the training and of the ids and contents that it holds."""
    base_shard = previous[slot.number] if slot.number < len(previous) else None
    parquet.copy_query(
        f"SELECT * EXCLUDE slot FROM {parquet.scan_sql(plan)} WHERE slot = {slot.number} ORDER BY item_id", rows, temp_dir=root.tmp
    )
    held = parquet.compute_digest(rows, ["item_id", "content_digest"])
    key = json_digest([trained.digest, side, trained.rerank, held])
    return ShardPlan(
        side=side, number=number, key=key, rows=rows, items=slot.items, added=slot.added, base_shard=base_shard, rerank=trained.rerank
    )


def _build_all(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, shard_plans: Sequence[ShardPlan], advance: Advance
) -> ShardBuild:  # fmt: skip
    """All jobs, `workers` at a time, which share the cores: FAISS lets go of Python's lock while it works."""
    cores = min(os.cpu_count() or 1, int(faiss.omp_get_max_threads()))
    workers = max(1, min(MAX_CONCURRENT_SHARDS, cores, len(shard_plans)))
    # A graph's links depend on the order in which threads come to them; with one thread the same inputs give the same bytes.
    threads = max(1, cores // workers) if trained.lists else 1

    def work(shard_plan: ShardPlan) -> tuple[Shard, str]:
        if shard := load_shard(root, name, shard_plan.key):
            return shard, "reused"
        faiss.omp_set_num_threads(threads)  # of this thread's own work
        shard, updated = build_shard(root, name, embeddings, trained, shard_plan)
        return shard, "updated" if updated else "built"

    made: list[tuple[Shard, str]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="shard") as pool:
        futures: list[Future[tuple[Shard, str]]] = [pool.submit(work, shard_plan) for shard_plan in shard_plans]
        try:
            for future, shard_plan in zip(futures, shard_plans, strict=True):
                shard, how = future.result()
                made.append((shard.model_copy(update={"number": shard_plan.number}), how))
                advance(shard_plan.items)
        finally:
            pool.shutdown(cancel_futures=True)
    counts = {how: sum(done == how for _, done in made) for how in ("built", "updated", "reused")}
    return ShardBuild(shards=tuple(shard for shard, _ in made), **counts)
