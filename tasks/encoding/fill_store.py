"""Fill an embedding store: encode missing contents chunk by chunk, then split the items into encoded and rejected.

The captions of images become an items table of their own, aligned with the images by item id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import parquet
from indexmill.storage.atomic import commit
from indexmill.storage.device_profiles import DeviceProfile
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.embedding_store import REJECTED_SCHEMA, EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.tasks.encoding.protocol import ChunkResult, EncodeChunk, ModelSpec
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.validation.rejects import REJECTS_SCHEMA


def write_captions(items: Path, target: Path) -> int:
    """Write the rows that have a text, with the text's digest in the place of the image's, and no path. Returns how many there are."""
    schema = pa.schema([field.with_nullable(True) for field in pq.read_schema(items)])
    return parquet.write_parquet(target, schema, _iter_captions(items, schema))


def _iter_captions(items: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in parquet.read_batches(items):
        captioned = batch.filter(pc.fill_null(pc.not_equal(batch.column("text"), ""), False))
        if not captioned.num_rows:
            continue
        digests = [content_digest(text.encode()) for text in captioned.column("text").to_pylist()]
        replaced = {"content_digest": pa.array(digests, pa.string()), "path": pa.nulls(captioned.num_rows, pa.string())}
        yield pa.RecordBatch.from_arrays([replaced.get(name, captioned.column(name)) for name in schema.names], schema=schema)


# Reasons that say more about the moment than about the content: tried again the next time that the stage runs.
TRANSIENT_REASONS = ("encoder_error",)
BATCH_SEARCH_MIN_ITEMS = 1000  # items, from which it pays to look for the fastest batch size
RATE_MIN_ITEMS = 64  # items, from which a rate is told

RunChunk = Callable[[EncodeChunk, Advance], ChunkResult]


@dataclass(frozen=True)
class EncodeRequest:
    """What to encode: the items' table, the folder of their images (None for texts), the store, and what the device has shown."""

    root: Root
    store: EmbeddingStore
    items: Path
    image_root: str | None
    model: ModelSpec
    profile: DeviceProfile


def fill_store(request: EncodeRequest, config: EncoderConfig, failed: Path, run_chunk: RunChunk) -> tuple[int, DeviceProfile]:
    """Encode what the store lacks. Call with the store's lease. Returns how many contents that were, and what the device has shown.

    failed: the file for contents that could not be encoded this time (REJECTED_SCHEMA's columns).
    """
    request.store.drop_damaged()
    request.store.rejected_parts.drop_damaged()
    with request.root.scratch.staging() as staging, parquet.open_writer(failed, REJECTED_SCHEMA) as transient:
        plan, profile = staging / "plan.parquet", request.profile
        missing = request.store.write_encode_plan(request.items, config.chunk_rows, plan)
        with track(f"encoding {request.model.modality}s", missing) as advance:
            for number in range(-(-missing // config.chunk_rows)):
                job = _make_job(request, config, profile, plan, number, staging, search=missing >= BATCH_SEARCH_MIN_ITEMS)
                profile = _update_profile(profile, run_chunk(job, advance), job)
                _commit_chunk(request.store, job, transient)
    return missing, profile


def _make_job(
    request: EncodeRequest, config: EncoderConfig, profile: DeviceProfile, plan: Path, number: int, staging: Path, *, search: bool
) -> EncodeChunk:
    size = profile.batch_sizes.get(request.model.precision, None if search else 0) if config.batch_size == "auto" else config.batch_size
    return EncodeChunk(
        request.model, str(plan), number, request.image_root, str(staging / "part.parquet"), str(staging / "rejected.parquet"), str(request.root.tmp),
        config.storage_dtype, size,
    )  # fmt: skip


def _commit_chunk(store: EmbeddingStore, job: EncodeChunk, transient: parquet.ParquetRowWriter) -> None:
    """Commit what a shard's job wrote: the rejects first, so that no content ever stands in neither place nor in both."""
    rejected = pq.read_table(job.rejected)
    permanent = rejected.filter(pc.invert(pc.is_in(rejected["reason"], pa.array(TRANSIENT_REASONS))))
    transient.write(rejected.filter(pc.is_in(rejected["reason"], pa.array(TRANSIENT_REASONS))).to_pylist())
    if permanent.num_rows:
        store.rejected_parts.add_batch(permanent.combine_chunks().to_batches()[0])
    if pq.read_metadata(job.part).num_rows:
        with store.add_part() as temporary:
            Path(job.part).rename(temporary)


def _update_profile(profile: DeviceProfile, result: ChunkResult, job: EncodeChunk) -> DeviceProfile:
    """Batch size (once it was looked for), rate and peak memory as the last shard showed them."""
    update: dict[str, object] = {"peak_bytes": max(profile.peak_bytes, result.peak_bytes)}
    if (items := result.vectors + result.rejects) >= RATE_MIN_ITEMS:
        update["rates"] = profile.rates | {job.model.precision: round(items / result.seconds, 1)}
    if job.batch_size is None or job.model.precision in profile.batch_sizes:
        update["batch_sizes"] = profile.batch_sizes | {job.model.precision: result.batch_size}
    return profile.model_copy(update=update)


@dataclass(frozen=True)
class PartitionedItems:
    """content: digest of the rows with a vector. rejects: None when every item has one. contents: how many distinct ones."""

    items_digest: str
    items: FileRef
    rejects: FileRef | None
    rejected: int
    database: int
    query: int
    distinct_contents: int


def partition_items(
    root: Root, name: str, items: Path, store: EmbeddingStore, failed: Path, max_reject_fraction: float
) -> PartitionedItems:
    """Part the items' table by whether the store has a vector for them; past the budget of rejects, raise InputError.

    failed: a table of contents that could not be encoded this time. A table already under the root is kept when all its items passed.
    """
    without = f"(SELECT * FROM {store.rejected_sql()} UNION SELECT * FROM {parquet.scan_sql(failed)})"
    wanted = ", ".join(f"{'r' if column in ('reason', 'message') else 'i'}.{column}" for column in REJECTS_SCHEMA.names)
    rejected_sql = f"SELECT {wanted} FROM {parquet.scan_sql(items)} i JOIN {without} r USING (content_digest) ORDER BY i.item_id"
    reasons = dict(parquet.fetch_rows(f"SELECT reason, count(*) FROM ({rejected_sql}) GROUP BY 1 ORDER BY 2 DESC", temp_dir=root.tmp))
    total = int(parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(items)}", temp_dir=root.tmp)[0][0])
    _check_reject_budget(name, reasons, total, max_reject_fraction)
    rejects = None
    if reasons or not items.is_relative_to(root.path / "datasets"):
        items, rejects = _write_partition(root, name, items, without, rejected_sql if reasons else None)
    counted = "SELECT count(*) FILTER (side = 'database'), count(*) FILTER (side = 'query'), count(DISTINCT content_digest)"
    database, query, distinct_contents = parquet.fetch_rows(f"{counted} FROM {parquet.scan_sql(items)}", temp_dir=root.tmp)[0]
    rejected = sum(reasons.values())
    return PartitionedItems(parquet.compute_digest(items), root.make_ref(items), rejects, rejected, database, query, distinct_contents)


def _write_partition(root: Root, name: str, items: Path, without: str, rejected_sql: str | None) -> tuple[Path, FileRef | None]:
    """The items that have a vector as a table of their own, and the others beside it."""
    with root.scratch.staging() as staging:
        table, rejects = staging / "items.parquet", staging / "rejects.parquet"
        parquet.copy_query(
            f"SELECT * FROM {parquet.scan_sql(items)} ANTI JOIN {without} USING (content_digest) ORDER BY item_id", table, temp_dir=root.tmp
        )
        digest = parquet.compute_digest(table)
        if rejected_sql:
            parquet.copy_query(rejected_sql, rejects, temp_dir=root.tmp)
            digest = json_digest([digest, parquet.compute_digest(rejects)])
            commit(rejects, root.dataset(name, "encoded", digest) / rejects.name)
        folder = root.dataset(name, "encoded", digest)
        commit(table, folder / table.name)
    return folder / table.name, root.make_ref(folder / rejects.name) if rejected_sql else None


def _check_reject_budget(name: str, reasons: dict[str, int], total: int, max_reject_fraction: float) -> None:
    rejected = sum(reasons.values())
    if rejected > max_reject_fraction * total or rejected == total:
        raise InputError(
            "too many items have no vector that can be searched",
            where=f"dataset of {name}",
            expected=f"at most {max_reject_fraction:.1%} rejected",
            got=f"{rejected} of {total} ({rejected / total:.1%}): " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()),
            next_step="try encoder.precision=float32 or another encoder, or raise validate.max_reject_fraction",
        )
