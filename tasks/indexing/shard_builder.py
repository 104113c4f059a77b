"""Build the shards of one side, each keyed by the digest of its content so that equal shards are built once.

A shard is built from scratch or from its previous version, which never changes (copy on write). Inverted lists support
64-bit ids, removal and addition, so such a shard is read, updated and written under its new key. Other families (Flat,
HNSW) are rebuilt: HNSW cannot remove, and for Flat copying the rest costs as much as filling.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.part_keys import find_parts, list_part_refs, with_parts
from indexmill.storage.records import EmbeddingSet, FileRef, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import estimate_bytes_per_item, remove_vectors
from indexmill.tasks.indexing.reranking import FILE_SUFFIXES, VectorBlocks, read_stored, write_vectors
from indexmill.tasks.indexing.shard_layout import ShardAssignment, assign_items, plan_capacity
from indexmill.tasks.indexing.shard_store import load_shard, read_index, verify_or_none, write_index
from indexmill.tasks.indexing.soar import fill_index
from indexmill.tasks.progress import Advance, ignore_progress
from indexmill.tasks.runner import LOCAL_RUNNER, Resources, Runner, Work

MAX_CHANGED_FRACTION = 0.5  # a shard with more changes is rebuilt
MAX_CONCURRENT_SHARDS = 4  # built, and so held in memory, at the same time

Origin = Literal["built", "updated", "reused"]


@dataclass(frozen=True)
class BuildContext:
    """The inputs that all shards of one side share."""

    root: Root
    name: str
    embeddings: EmbeddingSet
    trained: TrainedIndex
    side: Side


@dataclass(frozen=True)
class ShardPlan:
    """One shard to build.

    number: of the shard in this build. assigned_number: in the layout, where empty shards have numbers too. rows: its table
    (item_id, content_digest, side, added). added: how many rows are new compared with `base_shard`, its
    previous version. parts: the parts of the embedding store that hold the vectors of its rows. added_parts: those of
    its new rows. No other part is read to build it; both are empty for a shard that is in the pool.
    """

    number: int
    assigned_number: int
    key: str
    rows: Path
    items: int
    added: int
    base_shard: Shard | None
    parts: tuple[FileRef, ...] = ()
    added_parts: tuple[FileRef, ...] = ()


@dataclass(frozen=True)
class ShardBuild:
    """The shards of one side, and how many of them were built from scratch, updated or reused."""

    shards: tuple[Shard, ...]
    built: int
    updated: int
    reused: int


def build_shards(
    root: Root,
    name: str,
    embeddings: EmbeddingSet,
    trained: TrainedIndex,
    config: IndexConfig,
    *,
    side: Side = "database",
    previous: Sequence[Shard] = (),
    advance: Advance = ignore_progress,
    shards_fraction: float = 1.0,
    runner: Runner = LOCAL_RUNNER,
) -> ShardBuild:
    """Build the shards of one side; several at a time, and shards that are already in the pool are reused.

    Args:
        root: the storage root.
        name: the index.
        embeddings: the vectors of the indexed modality.
        trained: the empty trained index.
        config: the index section of the pipeline.
        side: the side to build.
        previous: the side's shards of the live snapshot, whose items stay where they are.
        advance: is called with the number of items of each finished shard.
        shards_fraction: the fraction of `index.shards` for this side, if that is a number.
        runner: fills the shards.
    """
    context = BuildContext(root, name, embeddings, trained, side)
    with root.scratch.staging() as folder:
        plans = plan_shards(context, config, folder, previous=previous, shards_fraction=shards_fraction)
        return _build_all(context, plans, advance, runner)


def plan_shards(
    context: BuildContext, config: IndexConfig, folder: Path, *, previous: Sequence[Shard] = (), shards_fraction: float = 1.0
) -> list[ShardPlan]:
    """Assign the items of one side to shards, and find the parts with the vectors of each shard.

    Args:
        context: the inputs of the build.
        config: the index section of the pipeline.
        folder: receives the tables of the plans, which must stay there until the shards are built.
        previous: as for `build_shards`.
        shards_fraction: as for `build_shards`.
    """
    root, embeddings, trained, side = context.root, context.embeddings, context.trained, context.side
    items = embeddings.database if side == "database" else embeddings.query
    shards = config.shards if config.shards == "auto" else max(1, round(config.shards * shards_fraction))
    item_bytes = estimate_bytes_per_item(read_index(root.file(trained.index), trained.index)) * (2 if trained.spill else 1)
    capacity = plan_capacity(shards, items, int(config.shard_bytes) // item_bytes)
    layout = folder / "layout.parquet"
    previous_rows = [verify_or_none(root, shard.rows) for shard in previous]
    assignments = assign_items(root.file(embeddings.items), side, previous_rows, capacity, layout, temp_dir=root.tmp)
    plans = [
        _plan_shard(context, number, assignment, previous, layout, folder / f"{number}.parquet")
        for number, assignment in enumerate(assignments)
    ]
    return find_shard_parts(context, plans, layout)


def find_shard_parts(context: BuildContext, plans: Sequence[ShardPlan], layout: Path) -> list[ShardPlan]:
    """Return the plans with the parts that each shard needs, found in one pass over the keys of the store.

    Args:
        context: the inputs of the build.
        plans: one per shard, ordered by number.
        layout: the plan of all shards (`assign_items`).
    """
    root = context.root
    missing = [plan.assigned_number for plan in plans if not root.exists(root.shard_path(context.name, plan.key, "json"))]
    if not missing:
        return list(plans)
    numbers = ", ".join(map(str, missing))
    contents_sql = f"SELECT shard, added, content_digest FROM {parquet.scan_sql(layout)} WHERE shard IN ({numbers})"
    found = find_parts(root, context.embeddings, contents_sql, ["shard", "added"])
    located = []
    for plan in plans:
        kept, added = (found.get((plan.assigned_number, is_added), ()) for is_added in (False, True))
        located.append(replace(plan, parts=tuple(sorted({*kept, *added}, key=lambda ref: ref.path)), added_parts=added))
    return located


def _plan_shard(
    context: BuildContext, number: int, assignment: ShardAssignment, previous: Sequence[Shard], layout: Path, rows: Path
) -> ShardPlan:
    """Plan one shard. Its key is the digest of the training and of its ids and contents."""
    sql = f"SELECT * EXCLUDE shard FROM {parquet.scan_sql(layout)} WHERE shard = {assignment.number} ORDER BY item_id"
    parquet.copy_query(sql, rows, temp_dir=context.root.tmp)
    trained, rows_digest = context.trained, parquet.compute_digest(rows, ["item_id", "content_digest"])
    return ShardPlan(
        number=number,
        assigned_number=assignment.number,
        key=json_digest([trained.digest, context.side, trained.rerank, rows_digest]),
        rows=rows,
        items=assignment.items,
        added=assignment.added,
        base_shard=previous[assignment.number] if assignment.number < len(previous) else None,
    )


def _build_all(context: BuildContext, plans: Sequence[ShardPlan], advance: Advance, runner: Runner) -> ShardBuild:
    """Build the shards; in this process in threads that share the cores: FAISS releases Python's lock while it works."""
    cores = min(os.cpu_count() or 1, int(faiss.omp_get_max_threads()))
    workers = max(1, min(MAX_CONCURRENT_SHARDS, cores, len(plans)))
    # The links of a graph depend on the order in which threads reach them; one thread gives equal bytes for equal
    # inputs.
    threads: int | None = 1
    if context.trained.lists:
        threads = max(1, cores // workers) if runner.is_local else None
    key = f"shards-{context.name}-{context.side}"
    origins: Counter[Origin] = Counter()
    shards: list[Shard] = []
    jobs = _iter_jobs(context, plans, threads, key, runner)
    for job, (shard, origin) in runner.map(context.root, Work("fill-shard", fill_shard), jobs, Resources(local_jobs=workers), advance):
        shards.append(shard.model_copy(update={"number": job.plan.number}))
        origins[origin] += 1
    if not runner.is_local:
        context.root.remove_jobs(key)
    shards.sort(key=lambda shard: shard.number)
    return ShardBuild(tuple(shards), built=origins["built"], updated=origins["updated"], reused=origins["reused"])


@dataclass(frozen=True, kw_only=True)
class FillShard:
    """Build one shard, unless it is in the pool. The other attributes are those of `BuildContext`.

    plan: the shard. rows: its table, wherever the job runs. threads: for FAISS; None for as many as the worker gives it.
    """

    name: str
    items: int
    index_name: str
    embeddings: EmbeddingSet
    trained: TrainedIndex
    side: Side
    plan: ShardPlan
    rows: FileRef
    threads: int | None


def _iter_jobs(context: BuildContext, plans: Sequence[ShardPlan], threads: int | None, key: str, runner: Runner) -> Iterator[FillShard]:
    for plan in plans:
        yield FillShard(
            name=f"fill shard {plan.number + 1} of {len(plans)} of {context.name}",
            items=plan.items,
            index_name=context.name,
            embeddings=context.embeddings,
            trained=context.trained,
            side=context.side,
            plan=plan,
            rows=runner.share(context.root, plan.rows, key),
            threads=threads,
        )


def fill_shard(root: Root, job: FillShard, advance: Advance) -> tuple[Shard, Origin]:
    """Load a shard from the pool or build it."""
    origin: Origin = "reused"
    if (shard := load_shard(root, job.index_name, job.plan.key)) is None:
        context = BuildContext(root, job.index_name, job.embeddings, job.trained, job.side)
        with _use_threads(job.threads):
            shard, origin = _build_shard(context, replace(job.plan, rows=root.file(job.rows)))
    advance(job.items)
    return shard, origin


@contextmanager
def _use_threads(threads: int | None) -> Iterator[None]:
    """Set how many threads FAISS uses in calls from this thread, which may be the main one."""
    before = int(faiss.omp_get_max_threads())
    faiss.omp_set_num_threads(threads or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _build_shard(context: BuildContext, plan: ShardPlan) -> tuple[Shard, Origin]:
    """Write one shard to the pool, its record last. Memory: its FAISS index, its ids, and one block of vectors."""
    root, rerank = context.root, context.trained.rerank
    base_shard = _find_reusable_base(context, plan)
    paths = {
        suffix: root.shard_path(context.name, plan.key, suffix) for suffix in ("faiss", "json", "rows.parquet", *FILE_SUFFIXES[rerank])
    }
    record_path, index_path = paths.pop("json"), paths.pop("faiss")
    with ExitStack() as files:
        temporary = {suffix: files.enter_context(root.replace_atomically(path)) for suffix, path in paths.items()}
        rows_sql = f"SELECT item_id, content_digest FROM {parquet.scan_sql(plan.rows)} ORDER BY item_id"
        parquet.copy_query(rows_sql, temporary["rows.parquet"], temp_dir=root.tmp)
        if rerank != "none":
            _write_vectors(context, plan, base_shard, temporary)
        index = _fill_index(context, plan, base_shard, temporary if rerank == "exact" else {})
        index_ref = write_index(index, root, index_path)
    refs = {suffix: root.make_ref(path) for suffix, path in paths.items()}
    shard = Shard(
        side=context.side,
        number=plan.number,
        count=plan.items,
        key=plan.key,
        trained=context.trained.digest,
        index=index_ref,
        rows=refs.pop("rows.parquet"),
        vectors=refs,
    )
    root.write_record(record_path, shard)
    return shard, "updated" if base_shard else "built"


def _find_reusable_base(context: BuildContext, plan: ShardPlan) -> Shard | None:
    """Return the previous version if an update from it is possible (same training, IVF, intact files) and saves work."""
    base_shard, trained = plan.base_shard, context.trained
    if base_shard is None or base_shard.trained != trained.digest or not trained.lists:
        return None
    if set(base_shard.vectors) != set(FILE_SUFFIXES[trained.rerank]):
        return None
    removed = base_shard.count - (plan.items - plan.added)
    if plan.added + removed > MAX_CHANGED_FRACTION * plan.items:
        return None
    return base_shard if all(verify_or_none(context.root, ref) for ref in base_shard.files) else None


def _fill_index(context: BuildContext, plan: ShardPlan, base_shard: Shard | None, stored: Mapping[str, Path]) -> faiss.Index:
    """Fill the empty trained index, or update the previous version: remove what is gone, add what is new.

    stored: the files for re-ranking, if they hold the exact vectors: a first version is filled from them, so that the
    parts are read once.
    """
    root, trained = context.root, context.trained
    empty = read_index(root.file(trained.index), trained.index)
    index = read_index(root.file(base_shard.index), base_shard.index) if base_shard else empty
    if base_shard and len(removed_ids := _read_removed_ids(root, plan, base_shard)):
        remove_vectors(index, removed_ids)
    with read_stored(stored) if stored and base_shard is None else _read_new_vectors(context, plan, base_shard) as blocks:
        if trained.fast_scan:
            added = fill_index(empty, blocks, spill=trained.spill)
            if base_shard is None:
                return added
            if added.ntotal:
                index.merge_from(added, 0)
            return index
        for ids, block in blocks:
            index.add_with_ids(block, ids)
    return index


def _read_removed_ids(root: Root, plan: ShardPlan, base_shard: Shard) -> np.ndarray:
    """Read the int64 ids of the previous version that are gone or have another content."""
    sql = (
        f"SELECT item_id FROM {parquet.scan_sql(root.file(base_shard.rows))} "
        f"ANTI JOIN (FROM {parquet.scan_sql(plan.rows)} WHERE NOT added) USING (item_id) ORDER BY item_id"
    )
    return _read_ids(root, sql)


def _read_ids(root: Root, sql: str) -> np.ndarray:
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        return np.concatenate([np.empty(0, np.int64), *(batch.column(0).to_numpy() for batch in batches)])


def _write_vectors(context: BuildContext, plan: ShardPlan, base_shard: Shard | None, targets: dict[str, Path]) -> None:
    """Write the files for re-ranking: new vectors from the embedding store, the others from the previous version."""
    root, trained = context.root, context.trained
    with _read_new_vectors(context, plan, base_shard) as blocks:
        write_vectors(
            targets,
            ids=_read_ids(root, f"SELECT item_id FROM {parquet.scan_sql(plan.rows)} ORDER BY item_id"),
            new_vectors=blocks,
            dim=context.embeddings.dim,
            rerank=trained.rerank,
            base_files={suffix: root.file(ref) for suffix, ref in base_shard.vectors.items()} if base_shard else None,
            bounds=np.load(root.verify_file(trained.bounds)) if trained.bounds else None,
        )


@contextmanager
def _read_new_vectors(context: BuildContext, plan: ShardPlan, base_shard: Shard | None) -> Iterator[VectorBlocks]:
    """Read the vectors of the plan's new rows, or of all rows without a previous version, in blocks by ascending id.

    Only the parts that hold them are read.
    """
    root = context.root
    with root.scratch.staging() as folder:
        rows, parts = plan.rows, plan.parts
        if base_shard:
            rows, parts = folder / "added.parquet", plan.added_parts
            parquet.copy_query(f"FROM {parquet.scan_sql(plan.rows)} WHERE added ORDER BY item_id", rows, temp_dir=root.tmp)
        if not parts and (plan.added or not base_shard):  # it was in the pool when it was planned, but damaged
            contents_sql = f"SELECT content_digest FROM {parquet.scan_sql(rows)}"
            parts = find_parts(root, context.embeddings, contents_sql).get((), list_part_refs(context.embeddings))
        if not parts:
            yield iter(())
            return
        view = with_parts(context.embeddings, root.make_ref(rows, digest=False), parts)
        with open_vectors(root, view, side=context.side) as blocks:
            yield blocks
