"""Fill an embedding store: encode missing contents chunk by chunk, then partition the items into encoded and rejected.

The captions of images become a separate items table, aligned with the images by item id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.device_profiles import DeviceProfile
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.embedding_store import REJECTED_SCHEMA, EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import FileRef, Modality, Runtime
from indexmill.storage.root import Root, find_file_error
from indexmill.tasks.encoding.chunk_size import choose_chunk_rows
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.encoder_pool import WORKER_ENCODERS
from indexmill.tasks.encoding.identity import EncoderIdentity
from indexmill.tasks.encoding.protocol import ChunkResult, EncodeChunk, ModelSpec
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.runner import Resources, Runner, Work, check_image_root
from indexmill.tasks.validation.rejects import REJECTS_SCHEMA

# Reasons that may be transient: these contents are tried again the next time the stage runs.
TRANSIENT_REASONS = ("encoder_error",)
# Below this many items, exporting the model and trying it takes longer than a faster runtime saves.
RUNTIME_MIN_ITEMS: dict[Modality, int] = {"text": 20_000, "image": 10_000}
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


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """Encode one chunk, and commit what can be encoded as a part of the store.

    Attributes:
        name: The job in messages.
        items: Contents in the chunk.
        fingerprint: The embedding store.
        plan: The table of the chunk's contents (`EmbeddingStore.write_encode_plan`).
        chunk: The chunk's number in the plan.
        part: The number of its part.
        rejected_part: The number of its part of rejects.
        model: The encoder.
        image_root: The folder that image paths are relative to; None for texts.
        batch_size: As in `EncodeChunk`.
        compares_runtimes: As in `EncodeChunk`.
    """

    name: str
    items: int
    fingerprint: str
    plan: FileRef
    chunk: int
    part: int
    rejected_part: int
    model: ModelSpec
    image_root: str | None
    batch_size: int | None
    compares_runtimes: bool


@dataclass(frozen=True)
class EncodedChunk:
    """The record of an encode job.

    Attributes:
        result: What the encoding process reports.
        device: The device that encoded.
        failed: The table of contents that could not be encoded this time; None if there are none.
    """

    result: ChunkResult
    device: str
    failed: FileRef | None


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


def encodes_captions(identity: EncoderIdentity, modality: Modality) -> bool:
    """Return whether captions are encoded too: those of images, if the encoder also takes texts."""
    return modality == "image" and "text" in identity.modalities


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


def fill_store(request: EncodeRequest, failed_path: Path, runner: Runner, encode: RunChunk, *, gpus: int = 1) -> FillResult:
    """Encode what the store lacks. The caller must hold the store's lease.

    Args:
        request: What to encode.
        failed_path: Written: contents that could not be encoded this time, with the columns of `REJECTED_SCHEMA`.
        runner: Runs the encode jobs.
        encode: Encodes one chunk if the jobs run in this process; workers of a cluster use encoding processes of their own.
        gpus: Chunks that may be encoded at the same time in this process.
    """
    request.store.drop_damaged()
    request.store.rejected_parts.drop_damaged()
    key = request.store.folder.name
    request.root.remove_jobs(key)  # of a driver that was killed
    resources = Resources(local_jobs=gpus, uses_gpu=True)
    work = Work("encode-chunk", partial(run_encode_job, encode=encode) if runner.is_local else encode_on_worker)
    with request.root.scratch.staging() as staging, parquet.open_writer(failed_path, REJECTED_SCHEMA) as transient:
        planner = _EncodePlanner(request, runner, staging, runner.count_slots(resources))
        with track(f"encoding {request.model_spec.modality}s", planner.missing) as advance:
            for job, chunk in runner.map(request.root, work, planner.iter_jobs(), resources, advance):
                planner.update_profile(job, chunk)
                if chunk.failed:
                    transient.write(pq.read_table(request.root.file(chunk.failed)).to_pylist())
    request.root.remove_jobs(key)
    return FillResult(planner.missing, planner.profile)


def run_encode_job(root: Root, job: EncodeJob, advance: Advance, *, encode: RunChunk) -> EncodedChunk:
    """Encode one chunk and commit what it gave: permanent rejects, then the part.

    In this order no content ends up both as a vector and as a reject, or as neither. Parts that exist stay: the job may
    have been run before by a worker that was lost.
    """
    store = EmbeddingStore(root, job.fingerprint)
    with root.scratch.staging() as staging:
        chunk = EncodeChunk(
            model=job.model,
            plan=str(root.file(job.plan)),
            number=job.chunk,
            image_root=job.image_root,
            part=str(staging / "part.parquet"),
            rejected=str(staging / "rejected.parquet"),
            temp_dir=str(root.tmp),
            storage_dtype=job.model.config.storage_dtype,
            batch_size=job.batch_size,
            compares_runtimes=job.compares_runtimes,
        )
        result = encode(chunk, advance)
        return EncodedChunk(result, get_device_name(), _commit_chunk(root, store, job, chunk))


def encode_on_worker(root: Root, job: EncodeJob, advance: Advance) -> EncodedChunk:
    """Do an encode job with the encoding processes of a cluster's worker."""
    if job.image_root:
        check_image_root(job.image_root)
    return run_encode_job(root, job, advance, encode=WORKER_ENCODERS.encode)


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


class _EncodePlanner:
    """Makes the jobs of a store, one when there is room for it, so that each profits from what the earlier ones measured."""

    def __init__(self, request: EncodeRequest, runner: Runner, staging: Path, slots: int) -> None:
        self.profile = request.profile
        self._request, self._runner, self._staging, self._slots = request, runner, staging, slots
        self._plan = staging / "plan.parquet"
        self._parts = request.store.get_next_number()
        self._rejected_parts = request.store.rejected_parts.get_next_number()
        spec = request.model_spec
        missing = request.store.count_missing(request.items)
        self._rows = choose_chunk_rows(spec.config.chunk_rows, missing, slots, request.profile.rates.get(spec.precision))
        self.missing = request.store.write_encode_plan(request.items, self._rows, self._plan)

    def iter_jobs(self) -> Iterator[EncodeJob]:
        """Yield the jobs in the order of their chunks."""
        chunks = -(-self.missing // self._rows)
        spec, store = self._request.model_spec, self._request.store
        for number in range(chunks):
            runtime, compares_runtimes = _choose_runtime(spec, self.profile, self.missing)
            yield EncodeJob(
                name=f"encode chunk {number + 1} of {chunks} ({spec.modality}s, {store.folder.name[:12]})",
                items=min(self._rows, self.missing - number * self._rows),
                fingerprint=store.folder.name,
                plan=self._share_chunk(number),
                chunk=number,
                part=self._parts + number,
                rejected_part=self._rejected_parts + number,
                model=replace(spec, runtime=runtime),
                image_root=self._request.image_root,
                batch_size=None if compares_runtimes else _choose_batch_size(spec, self.profile, self.missing),
                compares_runtimes=compares_runtimes,
            )

    def update_profile(self, job: EncodeJob, chunk: EncodedChunk) -> None:
        """Update the device profile with what a job measured, if this device did it."""
        if self._runner.is_local or chunk.device == self.profile.device:
            self.profile = _update_profile(self.profile, chunk.result, job)

    def _share_chunk(self, number: int) -> FileRef:
        """Share the plan; with other machines one chunk at a time, since it holds the texts."""
        if self._runner.is_local:
            return self._runner.share(self._request.root, self._plan, "")
        path = self._staging / f"part-{self._parts + number:05d}.parquet"
        sql = f"SELECT * FROM {parquet.scan_sql(self._plan)} WHERE chunk = {number} ORDER BY content_digest"
        parquet.copy_query(sql, path, temp_dir=self._request.root.tmp)
        return self._runner.share(self._request.root, path, self._request.store.folder.name)


def _choose_runtime(model_spec: ModelSpec, profile: DeviceProfile, missing: int) -> tuple[Runtime, bool]:
    """Return the runtime of a job, and whether to look for a faster one: for float32 and many contents, once per device."""
    if model_spec.precision != "float32" or model_spec.config.batch_size != "auto" or missing < RUNTIME_MIN_ITEMS[model_spec.modality]:
        return "torch", False
    known = profile.runtimes.get(model_spec.precision)
    return known or "torch", known is None


def _choose_batch_size(model_spec: ModelSpec, profile: DeviceProfile, missing: int) -> int | None:
    """Return the batch size of a job: the config's, the profile's, 0 or None (see `EncodeChunk`)."""
    if model_spec.config.batch_size != "auto":
        return model_spec.config.batch_size
    return profile.batch_sizes.get(model_spec.precision, None if missing >= BATCH_SEARCH_MIN_ITEMS else 0)


def _commit_chunk(root: Root, store: EmbeddingStore, job: EncodeJob, chunk: EncodeChunk) -> FileRef | None:
    """Commit the files of a chunk, and return the table of those that may succeed another time."""
    rejected = pq.read_table(chunk.rejected)
    is_transient = pc.is_in(rejected["reason"], pa.array(TRANSIENT_REASONS))
    permanent, transient = rejected.filter(pc.invert(is_transient)), rejected.filter(is_transient)
    _check_plan(root, job)
    if permanent.num_rows:
        store.rejected_parts.add_batch(permanent.combine_chunks().to_batches()[0], job.rejected_part)
    if pq.read_metadata(chunk.part).num_rows:
        with store.add_part(job.part) as temporary:
            Path(chunk.part).rename(temporary)
    if not transient.num_rows:
        return None
    path = root.jobs(job.fingerprint) / f"failed-{job.part:05d}.parquet"
    with root.replace_atomically(path) as temporary:
        pq.write_table(transient, temporary)
    return root.make_ref(path, digest=False)


def _check_plan(root: Root, job: EncodeJob) -> None:
    """Refuse to commit for a driver that has ended: another build may have given the part's number to other contents."""
    if error := find_file_error(root.file(job.plan), job.plan, digest=job.plan.sha256 is not None):
        raise InputError("the build that this job belongs to has ended", where=job.name, got=error)


def _update_profile(profile: DeviceProfile, result: ChunkResult, job: EncodeJob) -> DeviceProfile:
    """Update peak memory, the rate, and the batch size once it has been searched for."""
    update: dict[str, object] = {"peak_bytes": max(profile.peak_bytes, result.peak_bytes)}
    if (items := result.vectors + result.rejects) >= RATE_MIN_ITEMS:
        update["rates"] = profile.rates | {job.model.precision: round(items / result.seconds, 1)}
    if job.compares_runtimes:
        update["runtimes"] = profile.runtimes | {job.model.precision: result.runtime}
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
