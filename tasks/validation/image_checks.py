"""Decode new images once and cache the result by content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.configs.models import ValidateConfig
from indexmill.storage import parquet
from indexmill.storage.contents import join_location
from indexmill.storage.digests import json_digest
from indexmill.storage.image_check_cache import IMAGE_CHECK_SCHEMA, ImageCheckCache
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.versions import get_installed_version
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.runner import LOCAL_RUNNER, NO_RESOURCES, Runner, Work, check_image_root
from indexmill.tasks.validation.decoder_pool import DecodeResult, DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage

IMAGE_READER_VERSION = 3  # raise it when image_reader.py, icons.py or image_signature.py gives another result
GROUP_DIGITS = 32
PART_ROWS = 20_000  # the most images that a killed run has to decode again
MIN_PART_ROWS = 2000  # images of a task on a cluster, which takes some seconds
# Reasons that may not recur for the same content (a busy machine is slow), so they are checked again in every build.
TRANSIENT_REASONS = frozenset({"changed", "timeout", "unopenable"})


@dataclass(frozen=True, kw_only=True)
class CheckJob:
    """Decode the images of one chunk, and commit the results as a part of the cache.

    Attributes:
        name: The job in messages.
        items: Images in the chunk.
        policy: The cache (`compute_policy_digest`).
        plan: The table of the images (chunk, content_digest, path).
        chunk: The chunk's number in the plan.
        part: The number of its part.
        image_root: The folder that image paths are relative to.
        config: The limits of images.
    """

    name: str
    items: int
    policy: str
    plan: FileRef
    chunk: int
    part: int
    image_root: str
    config: ValidateConfig


def check_images(
    root: Root, config: ValidateConfig, *, image_root: str, items_path: Path, transient_path: Path, runner: Runner = LOCAL_RUNNER
) -> ImageCheckCache:
    """Decode every content of a table that is not in the cache yet, and add the results part by part.

    Args:
        root: The storage root.
        config: The limits of images.
        image_root: The folder that image paths are relative to.
        items_path: A Parquet file with the columns content_digest and path.
        transient_path: The Parquet file to write results to that say nothing about the content, see TRANSIENT_REASONS.
        runner: Runs the jobs.

    Returns:
        The cache of results under this config and these library versions.
    """
    cache = ImageCheckCache(root, compute_policy_digest(config))
    key = cache.folder.name
    with cache.lease(), parquet.open_writer(transient_path, IMAGE_CHECK_SCHEMA) as transient_writer, root.scratch.staging() as staging:
        cache.drop_damaged()
        root.remove_jobs(key)  # of a driver that was killed
        missing_count = cache.count_missing(items_path)
        if missing_count:
            jobs = _iter_jobs(cache, config, image_root, items_path, missing_count, staging, runner)
            with track("decoding images", missing_count) as advance:
                for _, failed in runner.map(root, Work("check-images", run_check_job), jobs, advance=advance):
                    if failed:
                        transient_writer.write(pq.read_table(root.file(failed)).to_pylist())
            root.remove_jobs(key)
    return cache


def run_check_job(root: Root, job: CheckJob, advance: Advance) -> FileRef | None:
    """Decode the images of a chunk and commit the results. Returns the table of those that say nothing about the content.

    Raises:
        InputError: The folder of the images is not there.
    """
    check_image_root(job.image_root)
    config, cache = job.config, ImageCheckCache(root, job.policy)
    limits = ImageLimits(config.max_pixels, config.min_side, config.max_aspect_ratio)
    sql = f"SELECT content_digest, path FROM {parquet.scan_sql(root.file(job.plan))} WHERE chunk = {job.chunk} ORDER BY path"
    rows = parquet.fetch_rows(sql, temp_dir=root.tmp)
    with DecoderPool(limits, timeout_s=config.seconds_per_item) as pool:
        results = pool.decode_all(DecodeRequest(join_location(job.image_root, path), digest) for digest, path in rows)
        checked = [_make_row(digest, result) for (digest, _), result in zip(rows, results, strict=True)]
    permanent = [row for row in checked if row["reason"] not in TRANSIENT_REASONS]
    transient = [row for row in checked if row["reason"] in TRANSIENT_REASONS]
    if permanent:
        cache.add_batch(pa.RecordBatch.from_pylist(permanent, schema=IMAGE_CHECK_SCHEMA), job.part)
    advance(job.items)
    return _write_transient(root, job, transient) if transient else None


def compute_policy_digest(config: ValidateConfig) -> str:
    """Return a digest of all that a result depends on besides the image's bytes: limits and library versions."""
    limits = {name: getattr(config, name) for name in ("max_pixels", "min_side", "max_aspect_ratio", "seconds_per_item")}
    libraries = [get_installed_version(name) for name in ("pillow", "ImageHash", "pillow-heif")]
    return json_digest([IMAGE_READER_VERSION, *libraries, limits])[:32]


def _iter_jobs(
    cache: ImageCheckCache, config: ValidateConfig, image_root: str, items_path: Path, missing: int, staging: Path, runner: Runner
) -> Iterator[CheckJob]:
    """Yield the jobs in the order of paths, for sequential reads."""
    root, first_part, slots = cache.root, cache.get_next_number(), runner.count_slots(NO_RESOURCES)
    rows = PART_ROWS if slots == 1 else min(PART_ROWS, max(MIN_PART_ROWS, -(-missing // slots)))
    plan = staging / "plan.parquet"
    cache.write_check_plan(items_path, rows, plan)
    ref = runner.share(root, plan, cache.folder.name)
    chunks = -(-missing // rows)
    for number in range(chunks):
        yield CheckJob(
            name=f"check images {number + 1} of {chunks}",
            items=min(rows, missing - number * rows),
            policy=cache.folder.name,
            plan=ref,
            chunk=number,
            part=first_part + number,
            image_root=image_root,
            config=config,
        )


def _write_transient(root: Root, job: CheckJob, rows: list[dict[str, Any]]) -> FileRef:
    path = root.jobs(job.policy) / f"failed-{job.part:05d}.parquet"
    with root.replace_atomically(path) as temporary:
        parquet.write_parquet(temporary, IMAGE_CHECK_SCHEMA, [pa.RecordBatch.from_pylist(rows, schema=IMAGE_CHECK_SCHEMA)])
    return root.make_ref(path, digest=False)


def _make_row(digest: str, result: DecodeResult) -> dict[str, Any]:
    if isinstance(result, UnreadableImage):
        return {"content_digest": digest, "content_group": None, "perceptual_hash": None, "reason": result.reason, "message": str(result)}
    group, perceptual_hash = result[:GROUP_DIGITS], result[GROUP_DIGITS:]
    return {"content_digest": digest, "content_group": group, "perceptual_hash": perceptual_hash, "reason": None, "message": None}
