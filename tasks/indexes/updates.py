"""One shard, made from nothing or from the shard that it was before (copy on write: the earlier file is never changed).

Inverted lists take native 64-bit ids, give them up again, and take others: such a shard is read, what left is removed, what came is added,
and the result is written under its new key. Any other family (Flat, HNSW) is filled anew: HNSW cannot remove, and for Flat copying
the rest costs what filling does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from indexmill.configs.models import Rerank
from indexmill.storage import tables
from indexmill.storage.embeddings import vectors
from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexes.files import read_index, write_index
from indexmill.tasks.indexes.pool import whole
from indexmill.tasks.indexes.removal import remove
from indexmill.tasks.indexes.spill import filled as scanned
from indexmill.tasks.indexes.spill import update
from indexmill.tasks.indexes.vector_files import Blocks, suffixes, write_vectors

MOST_CHANGED = 0.5  # past this share of changes a shard is filled anew


@dataclass(frozen=True)
class Job:
    """One shard to be made. rows: its table (item_id, content_digest, side, added). added: how many rows are new against `base`."""

    side: Side
    number: int
    key: str
    rows: Path
    items: int
    added: int
    base: Shard | None
    rerank: Rerank


def make_shard(root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, job: Job) -> tuple[Shard, bool]:
    """The shard, written into the pool, its record last; and whether it is an update of `job.base`.

    Memory: the FAISS index of this one shard, its ids, and one block of vectors.
    """
    base = _usable(root, trained, job)
    with ExitStack() as files:
        temporary = {
            suffix: files.enter_context(root.replacing(root.shard(name, job.key, suffix)))
            for suffix in ("rows.parquet", *suffixes(job.rerank))
        }
        tables.copy(
            f"SELECT item_id, content_digest FROM {tables.parquet(job.rows)} ORDER BY item_id", temporary["rows.parquet"], spill=root.tmp
        )
        index = _filled(root, embeddings, trained, job, base)
        if job.rerank != "none":
            _write_vectors(root, embeddings, trained, job, temporary, base)
        ref = write_index(index, root, root.shard(name, job.key, "faiss"))
    written = {suffix: root.ref(root.shard(name, job.key, suffix)) for suffix in temporary}
    shard = Shard(
        side=job.side, number=job.number, count=job.items, key=job.key, trained=trained.digest, index=ref,
        rows=written.pop("rows.parquet"), vectors=written,
    )  # fmt: skip
    root.write_record(root.shard(name, job.key, "json"), shard)
    return shard, base is not None


def _usable(root: Root, trained: TrainedIndex, job: Job) -> Shard | None:
    """The earlier shard, if starting from it is right (same training, native ids, whole files) and saves work."""
    base = job.base
    if base is None or base.trained != trained.digest or not trained.lists or set(base.vectors) != set(suffixes(job.rerank)):
        return None
    changes = job.added + base.count - (job.items - job.added)
    if changes > MOST_CHANGED * job.items or not all(whole(root, ref) for ref in base.files):
        return None
    return base


def _filled(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, job: Job, base: Shard | None) -> faiss.Index:
    """The empty trained index, or the earlier shard without what left it, with what is new added."""
    empty = read_index(root.file(trained.index), trained.index)
    index = read_index(root.file(base.index), base.index) if base else empty
    if base and len(gone := _gone(root, job, base)):
        remove(index, gone)
    with new_vectors(root, embeddings, job, whole_shard=base is None) as blocks:
        if trained.fast_scan:
            added = scanned(empty, blocks, spill=trained.spill)
            if base is None:
                return added
            update(index, added, np.empty(0, np.int64))
            return index
        for ids, block in blocks:
            index.add_with_ids(block, ids)
    return index


def _gone(root: Root, job: Job, base: Shard) -> np.ndarray:
    """int64 ids that the earlier shard holds and this one shall not, or with another content."""
    gone = (
        f"SELECT item_id FROM {tables.parquet(root.file(base.rows))} "
        f"ANTI JOIN (FROM {tables.parquet(job.rows)} WHERE NOT added) USING (item_id) ORDER BY item_id"
    )
    with tables.query(gone, spill=root.tmp) as batches:
        return np.concatenate([np.empty(0, np.int64), *(batch.column(0).to_numpy() for batch in batches)])


def _write_vectors(
    root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, job: Job, targets: dict[str, Path], base: Shard | None
) -> None:
    """The files for re-ranking: what is new from the embedding store, the rest from the earlier shard's."""
    with tables.query(f"SELECT item_id FROM {tables.parquet(job.rows)} ORDER BY item_id", spill=root.tmp) as batches:
        ids = np.concatenate([batch.column(0).to_numpy() for batch in batches])
    old = {suffix: root.file(ref) for suffix, ref in base.vectors.items()} if base else None
    bounds = np.load(root.verified(trained.bounds)) if trained.bounds else None
    with new_vectors(root, embeddings, job, whole_shard=base is None) as blocks:
        write_vectors(targets, ids, blocks, embeddings.dim, job.rerank, old, bounds)


@contextmanager
def new_vectors(root: Root, embeddings: EmbeddingSet, job: Job, *, whole_shard: bool) -> Iterator[Blocks]:
    """The vectors of the job's new rows, or of all of them, in blocks: read through a table of items that holds these rows alone."""
    with root.scratch.staging() as folder:
        wanted = job.rows
        if not whole_shard:
            wanted = folder / "added.parquet"
            tables.copy(f"FROM {tables.parquet(job.rows)} WHERE added ORDER BY item_id", wanted, spill=root.tmp)
        view = embeddings.model_copy(update={"items": root.ref(wanted, digest=False)})
        with vectors(root, view, side=job.side) as blocks:
            yield blocks
