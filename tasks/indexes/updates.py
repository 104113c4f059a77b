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

from configs.models import Rerank
from storage import tables
from storage.embeddings import vectors
from storage.records import EmbeddingSet, Shard, Side, TrainedIndex
from storage.root import Root
from tasks.indexes.files import read_index, write_index
from tasks.indexes.pool import whole
from tasks.indexes.removal import remove
from tasks.indexes.vector_files import Blocks, suffixes, write_vectors

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
        index = _start(root, trained, job, base)
        _fill(root, embeddings, job, index, temporary, base)
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


def _start(root: Root, trained: TrainedIndex, job: Job, base: Shard | None) -> faiss.Index:
    """What the new items are added to: the empty trained index, or the earlier shard without what left it."""
    if base is None:
        return read_index(root.file(trained.index), trained.index)
    index = read_index(root.file(base.index), base.index)
    gone = (
        f"SELECT item_id FROM {tables.parquet(root.file(base.rows))} "
        f"ANTI JOIN (FROM {tables.parquet(job.rows)} WHERE NOT added) USING (item_id) ORDER BY item_id"
    )
    with tables.query(gone, spill=root.tmp) as batches:
        ids = [batch.column(0).to_numpy() for batch in batches]
    if ids:
        remove(index, np.concatenate(ids))
    return index


def _fill(root: Root, embeddings: EmbeddingSet, job: Job, index: faiss.Index, targets: dict[str, Path], base: Shard | None) -> None:
    """Add what is new to the index and, in the same pass over its vectors, write the files for re-ranking."""
    with new_vectors(root, embeddings, job, whole_shard=base is None) as blocks:
        added = _adding(index, blocks)
        if job.rerank == "none":
            for _ in added:
                pass
            return
        with tables.query(f"SELECT item_id FROM {tables.parquet(job.rows)} ORDER BY item_id", spill=root.tmp) as batches:
            ids = np.concatenate([batch.column(0).to_numpy() for batch in batches])
        old = {suffix: root.file(ref) for suffix, ref in base.vectors.items()} if base else None
        write_vectors(targets, ids, added, embeddings.dim, job.rerank, old)


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


def _adding(index: faiss.Index, blocks: Blocks) -> Blocks:
    """The same blocks, each added to the index as it passes."""
    for ids, block in blocks:
        index.add_with_ids(block, ids)
        yield ids, block
