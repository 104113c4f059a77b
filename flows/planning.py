"""Estimate a build before it runs: items, seconds, disk, memory, and whether it fits on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pydantic import ByteSize

from indexmill.configs.models import PipelineConfig
from indexmill.storage import parquet
from indexmill.storage.device_profiles import load_device_profile
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.encoding import EncoderIdentity
from indexmill.tasks.encoding.chunk_table import find_chunk_estimate
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.fill_store import encodes_captions, open_captions
from indexmill.tasks.indexing.factory import min_training_items
from indexmill.tasks.indexing.shard_builder import MAX_CONCURRENT_SHARDS
from indexmill.tasks.indexing.training import load_last_training

BUILD_PROCESS_BYTES = 1 << 30  # the build's own process: Prefect, DuckDB within its limit, blocks of rows
DEFAULT_ENCODER_BYTES = 2 << 30  # the encoding process, before it has run on this device
ASSUMED_DIM = 1024  # dimensions of a vector, before the encoder has run
ROW_OVERHEAD_BYTES = 64  # an embedding's other columns
ITEM_OVERHEAD_BYTES = 200  # an item's rows in tables and reports
CGROUP_FOLDER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class EncodePlan:
    """What is to be encoded of one modality.

    Args:
        modality: `image` or `text`.
        precision: The number format of the forward pass.
        to_encode: Distinct contents without an embedding.
        reused: Distinct contents whose embeddings are stored already.
        rate: Items per second that this device has reached before; None if it has not run this encoder.
        seconds: The estimated time; None without a rate.
    """

    modality: Modality
    precision: str
    to_encode: int
    reused: int
    rate: float | None
    seconds: float | None


@dataclass(frozen=True)
class BuildPlan:
    """What the next build will do.

    Args:
        name: The index.
        items: Valid items.
        rejected: Items that cannot be used.
        skipped: Files below the folder that are no items, by suffix or kind.
        new: Items that the live snapshot lacks.
        changed: Items whose content differs from the live snapshot's.
        removed: Items of the live snapshot that are gone.
        unchanged: Items that are as in the live snapshot.
        to_encode: Distinct contents without an embedding.
        reused: Distinct contents whose embeddings are stored already.
        seconds: The estimated time of encoding; None if the device has not run this encoder.
        encoding: One entry per modality.
        training: Whether the last training of the index will be reused, and why.
        bytes: The most that the root will grow by.
        free_bytes: Free space on the root's disk.
        peak_bytes: The estimated peak of resident memory, the encoding process included.
        available_bytes: Memory available to the build.
        obstacles: Why the build does not fit; empty if it does.
        downloaded_bytes: Size of the copies of images that are not on this machine's disk; they are here already.
        chunks: Chunks that the texts are divided into; None if they are not.
        chunk_estimate: What dividing them would give; None if they are divided, cannot be, or nobody asked.
    """

    name: str
    items: int
    rejected: int
    skipped: dict[str, int]
    new: int
    changed: int
    removed: int
    unchanged: int
    to_encode: int
    reused: int
    seconds: float | None
    encoding: list[EncodePlan]
    training: str
    bytes: int
    free_bytes: int
    peak_bytes: int
    available_bytes: int
    obstacles: list[str]
    downloaded_bytes: int = 0
    chunks: int | None = None
    chunk_estimate: dict[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `--json` prints it."""
        return asdict(self)


class _Changes(NamedTuple):
    """Numbers of items, compared with the live snapshot."""

    new: int
    changed: int
    removed: int
    unchanged: int

    @property
    def total(self) -> int:
        return self.new + self.changed + self.removed


class _EncodeEstimate(NamedTuple):
    """The plan for one modality, the dimensions of its vectors, and the memory of its encoding process in bytes."""

    plan: EncodePlan
    dim: int
    process_bytes: int


def plan_build(
    config: PipelineConfig,
    root: Root,
    identity: EncoderIdentity,
    validated: ValidatedDataset,
    split: SplitDataset,
    *,
    downloaded_bytes: int = 0,
) -> BuildPlan:
    """Plan a build whose items are already listed, validated and split.

    Args:
        config: The pipeline.
        root: The root of the build.
        identity: The encoder's identity in float32.
        validated: The record of the stage `validate`.
        split: The record of the stage `split`.
        downloaded_bytes: Size of the copies of downloaded images.
    """
    changes = _count_changes(root, config.name, split)
    estimates = list(_estimate_encoding(root, config, identity, split))
    encode_plans = [estimate.plan for estimate in estimates]
    to_encode = sum(encode_plan.to_encode for encode_plan in encode_plans)
    known_seconds = [encode_plan.seconds for encode_plan in encode_plans if encode_plan.seconds is not None]
    dim = max(estimate.dim for estimate in estimates)
    encoder_bytes = max(estimate.process_bytes if estimate.plan.to_encode else 0 for estimate in estimates)
    disk_bytes = _estimate_disk_bytes(config, split, to_encode, dim, has_changes=changes.total > 0)
    peak_bytes = _estimate_peak_bytes(config, split, dim, encoder_bytes)
    free_bytes, available_bytes = shutil.disk_usage(root.path).free, available_memory()
    return BuildPlan(
        name=config.name,
        items=split.database + split.query,
        rejected=validated.rejected,
        skipped=validated.skipped,
        new=changes.new,
        changed=changes.changed,
        removed=changes.removed,
        unchanged=changes.unchanged,
        to_encode=to_encode,
        reused=sum(encode_plan.reused for encode_plan in encode_plans),
        seconds=round(sum(known_seconds), 1) if len(known_seconds) == len(encode_plans) else None,
        encoding=encode_plans,
        training=_describe_training(root, config, changes),
        bytes=disk_bytes,
        free_bytes=free_bytes,
        peak_bytes=peak_bytes,
        available_bytes=available_bytes,
        obstacles=_list_obstacles(disk_bytes, free_bytes, peak_bytes, available_bytes),
        downloaded_bytes=downloaded_bytes,
        chunks=split.chunks.chunks if split.chunks else None,
    )


def add_chunk_estimate(plan: BuildPlan, config: PipelineConfig, root: Root, split: SplitDataset) -> BuildPlan:
    """Add how many texts the encoder would cut, and what indexing them in chunks would cost. Takes a few seconds at most."""
    if split.modality != "text" or split.chunks:
        return plan
    estimate = find_chunk_estimate(config.encoder, root.file(split.table), temp_dir=root.tmp)
    return replace(plan, chunk_estimate=estimate.model_dump() if estimate else None)


def check_fit(plan: BuildPlan) -> None:
    """Raise InputError if the build needs more disk space or memory than is available."""
    if plan.obstacles:
        raise InputError(
            "the build does not fit on this machine",
            where=plan.name,
            expected="enough free disk space and memory",
            got="; ".join(plan.obstacles),
            next_step="free some, lower dataset.limit, choose a smaller index or encoder.storage_dtype=float16, or use another --root",
        )


def available_memory() -> int:
    """Return the bytes that this process can still use: the machine's, or the control group's if that is less."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP_FOLDER / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return available if limit == "max" else min(available, int(limit) - int(used))
    except (OSError, ValueError):
        return available


def _count_changes(root: Root, name: str, split: SplitDataset) -> _Changes:
    snapshots, candidate_sql = Snapshots(root, name), parquet.scan_sql(root.file(split.table))
    if (live := snapshots.read_live_manifest()) is None:
        return _Changes(new=split.database + split.query, changed=0, removed=0, unchanged=0)
    sql = (
        "SELECT count(*) FILTER (b.item_id IS NULL), count(*) FILTER (a.content_digest <> b.content_digest), "
        "count(*) FILTER (a.item_id IS NULL), count(*) FILTER (a.content_digest = b.content_digest) "
        f"FROM {candidate_sql} a FULL JOIN {parquet.scan_sql(snapshots.file(live, 'items.parquet'))} b ON a.item_id = b.item_id"
    )
    return _Changes(*parquet.fetch_rows(sql, temp_dir=root.tmp)[0])


def _estimate_encoding(root: Root, config: PipelineConfig, identity: EncoderIdentity, split: SplitDataset) -> Iterator[_EncodeEstimate]:
    """Estimate the encoding of each modality, and of each set of one's own queries."""
    items = root.file(split.chunks.table if split.chunks else split.table)
    yield _estimate_modality(root, config, identity, split.modality, items)
    if encodes_captions(identity, split.modality):
        with open_captions(root, items) as captions:
            if captions:
                yield _estimate_modality(root, config, identity, "text", captions)
    for table in split.query_tables:
        yield _estimate_modality(root, config, identity, table.modality, root.file(table.table))


def _estimate_modality(root: Root, config: PipelineConfig, identity: EncoderIdentity, modality: Modality, items: Path) -> _EncodeEstimate:
    profile = load_device_profile(root, identity.fingerprint, modality, get_device_name())
    precision = (profile.precision or "float32") if config.encoder.precision == "auto" else config.encoder.precision
    store = EmbeddingStore(root, identity.for_store(modality, precision, config.encoder.storage_dtype).fingerprint)
    distinct = int(parquet.fetch_rows(f"SELECT count(DISTINCT content_digest) FROM {parquet.scan_sql(items)}", temp_dir=root.tmp)[0][0])
    missing, rate = store.count_missing(items), profile.rates.get(precision)
    seconds = 0.0 if not missing else round(missing / rate, 1) if rate else None
    return _EncodeEstimate(
        plan=EncodePlan(modality, precision, to_encode=missing, reused=distinct - missing, rate=rate, seconds=seconds),
        dim=store.dim if store.list_readable_parts() else ASSUMED_DIM,
        process_bytes=profile.peak_bytes or DEFAULT_ENCODER_BYTES,
    )


def _describe_training(root: Root, config: PipelineConfig, changes: _Changes) -> str:
    """Predict whether the last training will be reused, as far as that is known before anything is encoded."""
    last = load_last_training(root, config.name, Snapshots(root, config.name).read_live_manifest())
    if last is None:
        return "new: the first of this index"
    if not changes.total:
        return "reused"
    changed_share = changes.total / (changes.total + changes.unchanged)
    if changed_share > config.index.drift.max_changed:
        return f"new: {changed_share:.0%} of the items changed"
    return f"reused, unless the {changes.total:,} changed items have drifted"


def _estimate_disk_bytes(config: PipelineConfig, split: SplitDataset, to_encode: int, dim: int, *, has_changes: bool) -> int:
    """Estimate the embeddings, the tables and reports, and the shards as if every vector were stored uncompressed."""
    number_bytes = 2 if config.encoder.storage_dtype == "float16" else 4
    embedding_bytes = to_encode * (dim * number_bytes + ROW_OVERHEAD_BYTES)
    if not has_changes and not to_encode:
        return embedding_bytes
    dim = min(dim, config.encoder.dimensions or dim)
    vectors = split.chunks.chunks if split.chunks else split.database + split.query
    return embedding_bytes + vectors * (dim * 4 + 8 + ITEM_OVERHEAD_BYTES)


def _estimate_peak_bytes(config: PipelineConfig, split: SplitDataset, dim: int, encoder_bytes: int) -> int:
    """Estimate the build process plus the largest of encoding, training (two copies of its sample) and filling shards.

    On a cluster elsewhere, only training is done by the build's machine.
    """
    dim = min(dim, config.encoder.dimensions or dim)
    sample = min(split.database, max(10_000, min_training_items(config.index.factory) * config.index.train_points_per_list))
    training_bytes = min(2 * sample * dim * 4, config.index.train_memory)
    if config.run.address:
        return BUILD_PROCESS_BYTES + training_bytes
    if config.index.shards == "auto":
        shard_bytes: int = config.index.shard_bytes
    else:
        vectors = split.chunks.chunks if split.chunks else split.database
        shard_bytes = -(-vectors // config.index.shards) * (dim * 4 + 8)
    return BUILD_PROCESS_BYTES + max(encoder_bytes, training_bytes, MAX_CONCURRENT_SHARDS * shard_bytes)


def _list_obstacles(disk_bytes: int, free_bytes: int, peak_bytes: int, available_bytes: int) -> list[str]:
    needs = (("disk space", disk_bytes, free_bytes, "free"), ("memory", peak_bytes, available_bytes, "available"))
    return [
        f"needs {_format_bytes(needed)} of {resource}; {_format_bytes(present)} {state}"
        for resource, needed, present, state in needs
        if needed > present
    ]


def _format_bytes(number: int) -> str:
    return ByteSize(number).human_readable(decimal=True, separator=" ")
