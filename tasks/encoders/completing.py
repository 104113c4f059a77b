"""Completing a store: what is missing is planned as a table of shards, then encoded and committed shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import tables
from indexmill.storage.embeddings import REJECTED, EmbeddingStore
from indexmill.storage.experience import Experience
from indexmill.storage.root import Root
from indexmill.tasks.encoders.jobs import EncodeShard, Model, ShardEncoded
from indexmill.tasks.progress import Advance, track

# Reasons that say more about the moment than about the content: tried again the next time that the stage runs.
PASSING = ("encoder_error",)
WORTH_A_SEARCH = 1000  # items, from which it pays to look for the fastest batch size
WORTH_REMEMBERING = 64  # items, from which a rate is told

RunShard = Callable[[EncodeShard, Advance], ShardEncoded]


@dataclass(frozen=True)
class Work:
    """What to encode: the items' table, the folder of their images (None for texts), the store, and what the device has shown."""

    root: Root
    store: EmbeddingStore
    items: Path
    base: str | None
    model: Model
    known: Experience


def complete(work: Work, config: EncoderConfig, failed: Path, run_shard: RunShard) -> tuple[int, Experience]:
    """Encode what the store lacks. Call with the store's lease. Returns how many contents that were, and what the device has shown.

    failed: the file for contents that could not be encoded this time (REJECTED's columns).
    """
    work.store.drop_damaged()
    work.store.rejected.drop_damaged()
    with work.root.scratch.staging() as staging, tables.open_writer(failed, REJECTED) as passing:
        plan, known = staging / "plan.parquet", work.known
        missing = work.store.plan(work.items, config.shard_rows, plan)
        with track(f"encoding {work.model.modality}s", missing) as advance:
            for number in range(-(-missing // config.shard_rows)):
                job = _job(work, config, known, plan, number, staging, search=missing >= WORTH_A_SEARCH)
                known = _learnt(known, run_shard(job, advance), job)
                _keep(work.store, job, passing)
    return missing, known


def _job(work: Work, config: EncoderConfig, known: Experience, plan: Path, number: int, staging: Path, *, search: bool) -> EncodeShard:
    size = known.batch_sizes.get(work.model.precision, None if search else 0) if config.batch_size == "auto" else config.batch_size
    return EncodeShard(
        work.model, str(plan), number, work.base, str(staging / "part.parquet"), str(staging / "rejected.parquet"), str(work.root.tmp),
        config.store, size,
    )  # fmt: skip


def _keep(store: EmbeddingStore, job: EncodeShard, passing: tables.Writer) -> None:
    """Commit what a shard's job wrote: the rejects first, so that no content ever stands in neither place nor in both."""
    rejected = pq.read_table(job.rejected)
    lasting = rejected.filter(pc.invert(pc.is_in(rejected["reason"], pa.array(PASSING))))
    passing.write(rejected.filter(pc.is_in(rejected["reason"], pa.array(PASSING))).to_pylist())
    if lasting.num_rows:
        store.rejected.add(lasting.combine_chunks().to_batches()[0])
    if pq.read_metadata(job.part).num_rows:
        with store.adding() as temporary:
            Path(job.part).rename(temporary)


def _learnt(known: Experience, done: ShardEncoded, job: EncodeShard) -> Experience:
    """Batch size (once it was looked for), rate and peak memory as the last shard showed them."""
    update: dict[str, object] = {"peak_bytes": max(known.peak_bytes, done.peak_bytes)}
    if (items := done.vectors + done.rejects) >= WORTH_REMEMBERING:
        update["rates"] = known.rates | {job.model.precision: round(items / done.seconds, 1)}
    if job.batch_size is None or job.model.precision in known.batch_sizes:
        update["batch_sizes"] = known.batch_sizes | {job.model.precision: done.batch_size}
    return known.model_copy(update=update)
