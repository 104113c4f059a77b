"""Fill an embedding store: encode missing contents chunk by chunk, then partition the items into encoded and rejected.

The captions of images become a separate items table, aligned with the images by item id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import parquet
from indexmill.storage.device_profiles import DeviceProfile
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.embedding_store import REJECTED_SCHEMA, EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import FileRef, Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding.chunk_size import choose_chunk_rows
from indexmill.tasks.encoding.identity import MODALITIES_BY_KIND
from indexmill.tasks.encoding.protocol import ChunkResult, EncodeChunk, ModelSpec
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.validation.rejects import REJECTS_SCHEMA

# Reasons that may be transient: these contents are tried again the next time the stage runs.
TRANSIENT_REASONS = ("encoder_error",)
BATCH_SEARCH_MIN_ITEMS = 1000  # below this many items, searching for the fastest batch size takes longer than it saves
RATE_MIN_ITEMS = 64  # from this many items on, a rate is recorded


class RunChunk(Protocol):
    """Encodes one chunk: `EncoderProcess.encode`, or a task around it that retries."""

    def __call__(self, job: EncodeChunk, advance: Advance, /) -> ChunkResult:
        """Write the chunk's part and its rejects."""
        ...


@dataclass(frozen=True)
class EncodeRequest:
    """What to encode.

    Attributes:
        root: The storage root.
        store: Where the vectors go.
        items: The items table.
        image_root: The folder that image paths are relative to; None for texts.
        model_spec: The encoder.
        profile: What this device has measured with the encoder.
    """

    root: Root
    store: EmbeddingStore
    items: Path
    image_root: str | None
    model_spec: ModelSpec
    profile: DeviceProfile


@dataclass(frozen=True)
class FillResult:
    """How many contents were missing from the store, and the updated device profile."""

    encoded: int
    profile: DeviceProfile


@dataclass(frozen=True, kw_only=True)
class PartitionedItems:
    """The items with a vector and those without.

    Attributes:
        items_digest: Digest of the rows with a vector.
        items: Table of the items with a vector.
        rejects: Table of the items without one; None if there are none.
        rejected_count: Items without a vector.
        database_count: Items with a vector on the database side.
        query_count: Items with a vector on the query side.
        distinct_contents: Distinct contents with a vector.
    """

    items_digest: str
    items: FileRef
    rejects: FileRef | None
    rejected_count: int
    database_count: int
    query_count: int
    distinct_contents: int


def encodes_captions(config: EncoderConfig, modality: Modality) -> bool:
    """Return whether captions are encoded too: those of images, if the encoder also takes texts."""
    return modality == "image" and "text" in MODALITIES_BY_KIND[config.kind]


@contextmanager
def open_captions(root: Root, items: Path) -> Iterator[Path | None]:
    """Yield a temporary items table of the captions of an image table; None if no image has one."""
    with root.scratch.staging() as staging:
        target = staging / "captions.parquet"
        yield target if write_captions(items, target) else None


def write_captions(items: Path, target: Path) -> int:
    """Write the rows that have a text, with the text's digest and without a path. Return their number."""
    schema = pa.schema([field.with_nullable(True) for field in pq.read_schema(items)])
    return parquet.write_parquet(target, schema, _iter_captions(items, schema))


def fill_store(request: EncodeRequest, failed_path: Path, run_chunk: RunChunk) -> FillResult:
    """Encode what the store lacks. The caller must hold the store's lease.

    Args:
        request: What to encode.
        failed_path: Written: contents that could not be encoded this time, with the columns of `REJECTED_SCHEMA`.
        run_chunk: Encodes one chunk.
    """
    config = request.model_spec.config
    request.store.drop_damaged()
    request.store.rejected_parts.drop_damaged()
    with request.root.scratch.staging() as staging, parquet.open_writer(failed_path, REJECTED_SCHEMA) as transient:
        plan, profile = staging / "plan.parquet", request.profile
        rate = profile.rates.get(request.model_spec.precision)
        rows = choose_chunk_rows(config.chunk_rows, request.store.count_missing(request.items), slots=1, rate=rate)
        missing = request.store.write_encode_plan(request.items, rows, plan)
        with track(f"encoding {request.model_spec.modality}s", missing) as advance:
            for number in range(-(-missing // rows)):
                batch_size = _choose_batch_size(request.model_spec, profile, missing)
                job = _make_job(request, staging, plan=plan, number=number, batch_size=batch_size)
                profile = _update_profile(profile, run_chunk(job, advance), job)
                _commit_chunk(request.store, job, transient)
    return FillResult(missing, profile)


def partition_items(
    root: Root, items: Path, store: EmbeddingStore, *, name: str, failed_path: Path, max_reject_fraction: float
) -> PartitionedItems:
    """Partition an items table by whether the store has a vector for the content.

    Args:
        root: The storage root.
        items: The items table. A table under the root is used as it is if all its items have a vector.
        store: The filled store.
        name: The pipeline's name.
        failed_path: Contents that could not be encoded this time, as `fill_store` writes them.
        max_reject_fraction: The largest share of items without a vector.

    Raises:
        InputError: Too many items have no vector.
    """
    without_vector = f"(SELECT * FROM {store.rejected_sql()} UNION SELECT * FROM {parquet.scan_sql(failed_path)})"
    columns = ", ".join(f"{'r' if column in ('reason', 'message') else 'i'}.{column}" for column in REJECTS_SCHEMA.names)
    rejected_sql = f"SELECT {columns} FROM {parquet.scan_sql(items)} i JOIN {without_vector} r USING (content_digest) ORDER BY i.item_id"
    reasons = dict(parquet.fetch_rows(f"SELECT reason, count(*) FROM ({rejected_sql}) GROUP BY 1 ORDER BY 2 DESC", temp_dir=root.tmp))
    total = int(parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(items)}", temp_dir=root.tmp)[0][0])
    _check_reject_fraction(name, reasons, total, max_reject_fraction)
    rejects = None
    if reasons or not items.is_relative_to(root.path / "datasets"):
        items, rejects = _write_partition(root, name, items, without_vector, rejected_sql if reasons else None)
    counts = "SELECT count(*) FILTER (side = 'database'), count(*) FILTER (side = 'query'), count(DISTINCT content_digest)"
    database_count, query_count, distinct_contents = parquet.fetch_rows(f"{counts} FROM {parquet.scan_sql(items)}", temp_dir=root.tmp)[0]
    return PartitionedItems(
        items_digest=parquet.compute_digest(items),
        items=root.make_ref(items),
        rejects=rejects,
        rejected_count=sum(reasons.values()),
        database_count=database_count,
        query_count=query_count,
        distinct_contents=distinct_contents,
    )


def _iter_captions(items: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in parquet.read_batches(items):
        captioned = batch.filter(pc.fill_null(pc.not_equal(batch.column("text"), ""), False))
        if not captioned.num_rows:
            continue
        digests = [content_digest(text.encode()) for text in captioned.column("text").to_pylist()]
        replaced = {"content_digest": pa.array(digests, pa.string()), "path": pa.nulls(captioned.num_rows, pa.string())}
        yield pa.RecordBatch.from_arrays([replaced.get(name, captioned.column(name)) for name in schema.names], schema=schema)


def _choose_batch_size(model_spec: ModelSpec, profile: DeviceProfile, missing: int) -> int | None:
    """Return the batch size of a job: the config's, the profile's, 0 or None (see `EncodeChunk`)."""
    if model_spec.config.batch_size != "auto":
        return model_spec.config.batch_size
    return profile.batch_sizes.get(model_spec.precision, None if missing >= BATCH_SEARCH_MIN_ITEMS else 0)


def _make_job(request: EncodeRequest, staging: Path, *, plan: Path, number: int, batch_size: int | None) -> EncodeChunk:
    return EncodeChunk(
        model=request.model_spec,
        plan=str(plan),
        number=number,
        image_root=request.image_root,
        part=str(staging / "part.parquet"),
        rejected=str(staging / "rejected.parquet"),
        temp_dir=str(request.root.tmp),
        storage_dtype=request.model_spec.config.storage_dtype,
        batch_size=batch_size,
    )


def _commit_chunk(store: EmbeddingStore, job: EncodeChunk, transient: parquet.ParquetRowWriter) -> None:
    """Commit what a job wrote, rejects first: no content may end up both as a vector and as a reject, or as neither."""
    rejected = pq.read_table(job.rejected)
    is_transient = pc.is_in(rejected["reason"], pa.array(TRANSIENT_REASONS))
    permanent = rejected.filter(pc.invert(is_transient))
    transient.write(rejected.filter(is_transient).to_pylist())
    if permanent.num_rows:
        store.rejected_parts.add_batch(permanent.combine_chunks().to_batches()[0])
    if pq.read_metadata(job.part).num_rows:
        with store.add_part() as temporary:
            Path(job.part).rename(temporary)


def _update_profile(profile: DeviceProfile, result: ChunkResult, job: EncodeChunk) -> DeviceProfile:
    """Update peak memory, the rate, and the batch size once it has been searched for."""
    update: dict[str, object] = {"peak_bytes": max(profile.peak_bytes, result.peak_bytes)}
    if (items := result.vectors + result.rejects) >= RATE_MIN_ITEMS:
        update["rates"] = profile.rates | {job.model.precision: round(items / result.seconds, 1)}
    if job.batch_size is None or job.model.precision in profile.batch_sizes:
        update["batch_sizes"] = profile.batch_sizes | {job.model.precision: result.batch_size}
    return profile.model_copy(update=update)


def _write_partition(root: Root, name: str, items: Path, without_vector: str, rejected_sql: str | None) -> tuple[Path, FileRef | None]:
    """Write the items with a vector as a table, and the others next to it if `rejected_sql` selects any."""
    with root.scratch.staging() as staging:
        table, rejects = staging / "items.parquet", staging / "rejects.parquet"
        items_sql = f"SELECT * FROM {parquet.scan_sql(items)} ANTI JOIN {without_vector} USING (content_digest) ORDER BY item_id"
        parquet.copy_query(items_sql, table, temp_dir=root.tmp)
        digest = parquet.compute_digest(table)
        if rejected_sql:
            parquet.copy_query(rejected_sql, rejects, temp_dir=root.tmp)
            digest = json_digest([digest, parquet.compute_digest(rejects)])
            root.commit(rejects, root.dataset(name, "encoded", digest) / rejects.name)
        folder = root.dataset(name, "encoded", digest)
        root.commit(table, folder / table.name)
    return folder / table.name, root.make_ref(folder / rejects.name) if rejected_sql else None


def _check_reject_fraction(name: str, reasons: dict[str, int], total: int, max_reject_fraction: float) -> None:
    rejected = sum(reasons.values())
    if rejected > max_reject_fraction * total or rejected == total:
        raise InputError(
            "too many items without a searchable vector",
            where=f"dataset of {name}",
            expected=f"at most {max_reject_fraction:.1%} rejected",
            got=f"{rejected} of {total} ({rejected / total:.1%}): " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()),
            next_step="try encoder.precision=float32 or another encoder, or raise validate.max_reject_fraction",
        )
