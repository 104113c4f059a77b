"""What a build would do, counted before it does it: items, seconds, bytes, memory; and whether it fits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from indexmill.tasks.encoding import MODALITIES_BY_KIND, EncoderIdentity
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.fill_store import write_captions
from indexmill.tasks.indexing.factory import min_training_items
from indexmill.tasks.indexing.shard_builder import MAX_CONCURRENT_SHARDS
from indexmill.tasks.indexing.training import load_last_training

BUILD_PROCESS_BYTES = 1 << 30  # the build's own process: Prefect, DuckDB within its limit, blocks of rows
DEFAULT_ENCODER_BYTES = 2 << 30  # the encoding process, before one has been seen at work
ASSUMED_DIM = 1024  # numbers a vector, before the encoder has made one
CGROUP_FOLDER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class EncodePlan:
    """One side of the encoder. rate: items a second as remembered for this device; seconds: None without a remembered rate."""

    modality: Modality
    precision: str
    to_encode: int
    reused: int
    rate: float | None
    seconds: float | None


@dataclass(frozen=True)
class BuildPlan:
    """items: those that passed. new, changed, removed, unchanged: against the live snapshot. bytes: what the root will grow by at most.

    peak_bytes: an estimate of the largest resident size, the encoding process included. obstacles: why it cannot fit; empty when it does.
    """

    name: str
    items: int
    rejected: int
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

    def to_json(self) -> dict[str, Any]:
        """The plan as `--json` prints it."""
        return asdict(self)


def plan_build(
    config: PipelineConfig, root: Root, identity: EncoderIdentity, validated: ValidatedDataset, split: SplitDataset
) -> BuildPlan:
    """The plan for items that are listed, checked and split already. identity: the encoder's in float32."""
    new, changed, removed, unchanged = _count_changes(root, config.name, split)
    encode_plans, dim, encoder_bytes = [], 0, 0
    for modality, items in _iterate_modalities(root, config, split):
        encode_plan, modality_dim, modality_bytes = _plan_encoding(root, config, identity, modality, items)
        encode_plans.append(encode_plan)
        dim, encoder_bytes = max(dim, modality_dim), max(encoder_bytes, modality_bytes if encode_plan.to_encode else 0)
    to_encode = sum(encode_plan.to_encode for encode_plan in encode_plans)
    known = [encode_plan.seconds for encode_plan in encode_plans if encode_plan.seconds is not None]
    size, peak = (
        _estimate_disk_bytes(config, split, to_encode, dim, touched=bool(new + changed + removed)),
        _estimate_peak_bytes(config, split, dim, encoder_bytes),
    )
    free, available = shutil.disk_usage(root.path).free, available_memory()
    return BuildPlan(
        name=config.name, items=split.database + split.query, rejected=validated.rejected, new=new, changed=changed, removed=removed,
        unchanged=unchanged, to_encode=to_encode, reused=sum(encode_plan.reused for encode_plan in encode_plans),
        seconds=round(sum(known), 1) if len(known) == len(encode_plans) else None, encoding=encode_plans,
        training=_describe_training(root, config, new + changed + removed, unchanged), bytes=size, free_bytes=free, peak_bytes=peak,
        available_bytes=available, obstacles=_list_obstacles(size, free, peak, available),
    )  # fmt: skip


def check_fit(plan: BuildPlan) -> None:
    """Raise InputError for a plan that cannot fit on the disk or into memory."""
    if plan.obstacles:
        raise InputError(
            "this build would not fit",
            where=plan.name,
            expected="room for what it writes, and memory for what it holds",
            got="; ".join(plan.obstacles),
            next_step="free some, build with dataset.limit, a smaller index or encoder.storage_dtype=float16, or choose another --root",
        )


def available_memory() -> int:
    """Bytes that this process and its children may still take: the machine's, or the control group's where that is less."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP_FOLDER / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return available if limit == "max" else min(available, int(limit) - int(used))
    except (OSError, ValueError):
        return available


def _count_changes(root: Root, name: str, split: SplitDataset) -> tuple[int, int, int, int]:
    snapshots, candidate_sql = Snapshots(root, name), parquet.scan_sql(root.file(split.table))
    if (live := snapshots.get_live_id()) is None:
        return split.database + split.query, 0, 0, 0
    sql = (
        "SELECT count(*) FILTER (b.item_id IS NULL), count(*) FILTER (a.content_digest <> b.content_digest), "
        "count(*) FILTER (a.item_id IS NULL), count(*) FILTER (a.content_digest = b.content_digest) "
        f"FROM {candidate_sql} a FULL JOIN {parquet.scan_sql(snapshots.get_path(live) / 'items.parquet')} b ON a.item_id = b.item_id"
    )
    new, changed, removed, unchanged = parquet.fetch_rows(sql, temp_dir=root.tmp)[0]
    return new, changed, removed, unchanged


@contextmanager
def _open_captions(root: Root, items: Path) -> Iterator[Path | None]:
    with root.scratch.staging() as staging:
        target = staging / "captions.parquet"
        yield target if write_captions(items, target) else None


def _iterate_modalities(root: Root, config: PipelineConfig, split: SplitDataset) -> Iterator[tuple[Modality, Path]]:
    """What the encode stage will encode: the items, and the captions of images where the encoder takes texts too."""
    items = root.file(split.table)
    yield split.modality, items
    if split.modality == "image" and "text" in MODALITIES_BY_KIND[config.encoder.kind]:
        with _open_captions(root, items) as captions:
            if captions:
                yield "text", captions


def _plan_encoding(
    root: Root, config: PipelineConfig, identity: EncoderIdentity, modality: Modality, items: Path
) -> tuple[EncodePlan, int, int]:
    """One side's plan, the length of its vectors, and what its process has been seen to take."""
    known = load_device_profile(root, identity.fingerprint, modality, get_device_name())
    precision = (known.precision or "float32") if config.encoder.precision == "auto" else config.encoder.precision
    store = EmbeddingStore(root, identity.for_store(modality, precision, config.encoder.storage_dtype).fingerprint)
    distinct = int(parquet.fetch_rows(f"SELECT count(DISTINCT content_digest) FROM {parquet.scan_sql(items)}", temp_dir=root.tmp)[0][0])
    missing, rate = store.count_missing(items), known.rates.get(precision)
    seconds = 0.0 if not missing else round(missing / rate, 1) if rate else None
    encode_plan = EncodePlan(modality, precision, missing, distinct - missing, rate, seconds)
    return encode_plan, store.dim if store.list_readable_parts() else ASSUMED_DIM, known.peak_bytes or DEFAULT_ENCODER_BYTES


def _describe_training(root: Root, config: PipelineConfig, touched: int, unchanged: int) -> str:
    """What will become of the last training, as far as that can be told before anything is encoded."""
    last = load_last_training(root, config.name, Snapshots(root, config.name).read_live_manifest())
    if last is None:
        return "new: the first of this index"
    if not touched:
        return "reused"
    share, limit = touched / (touched + unchanged), config.index.drift.max_changed
    return (
        f"new: {share:.0%} of the items changed"
        if share > limit
        else f"reused, unless the {touched:,} items that changed have drifted from it"
    )


def _estimate_disk_bytes(config: PipelineConfig, split: SplitDataset, to_encode: int, dim: int, *, touched: bool) -> int:
    """Embeddings, and shards as if each vector were stored whole; tables and reports besides."""
    stored = 2 if config.encoder.storage_dtype == "float16" else 4
    items = split.database + split.query
    return to_encode * (dim * stored + 64) + (items * (dim * 4 + 8 + 200) if touched or to_encode else 0)


def _estimate_peak_bytes(config: PipelineConfig, split: SplitDataset, dim: int, encoder_bytes: int) -> int:
    """The larger of encoding and of training with its sample twice in memory, or filling a shard; beside the build's own process."""
    sample = min(split.database, max(10_000, min_training_items(config.index.factory) * config.index.train_points_per_list))
    shard = config.index.shard_bytes if config.index.shards == "auto" else -(-split.database // config.index.shards) * (dim * 4 + 8)
    return BUILD_PROCESS_BYTES + max(encoder_bytes, min(2 * sample * dim * 4, config.index.train_memory), MAX_CONCURRENT_SHARDS * shard)


def _list_obstacles(size: int, free: int, peak: int, available: int) -> list[str]:
    needs = (("on the disk", size, free), ("of memory", peak, available))
    return [f"{_format_bytes(need)} {what} are needed, {_format_bytes(there)} are there" for what, need, there in needs if need > there]


def _format_bytes(number: int) -> str:
    return ByteSize(number).human_readable(decimal=True, separator=" ")
