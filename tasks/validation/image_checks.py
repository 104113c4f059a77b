"""Decode new images once and cache the result by content."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexmill.configs.models import ValidateConfig
from indexmill.storage import image_check_cache, parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.image_check_cache import ImageCheckCache
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.validation.decoder_pool import DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage

IMAGE_READER_VERSION = 1  # raised when tasks/checks/images.py reads an image another way
PART_ROWS = 20_000  # what a killed run has to open again at most
# What may be otherwise the next time although the content is the same (a busy machine is slow): tried again at every build.
TRANSIENT_REASONS = frozenset({"changed", "timeout", "unopenable"})

ImageCheckRow = dict[str, Any]


def compute_policy_digest(config: ValidateConfig) -> str:
    """What the result of opening an image depends on besides its bytes: the limits, and the versions of what reads it."""
    limits = {name: getattr(config, name) for name in ("max_pixels", "min_side", "max_aspect_ratio", "seconds_per_item")}
    return json_digest([IMAGE_READER_VERSION, version("pillow"), version("ImageHash"), limits])[:32]


def check_images(root: Root, config: ValidateConfig, image_root: Path, rows: Path, transient_path: Path) -> ImageCheckCache:
    """Open each content of the table `rows` (content_digest, path) that was never opened under this policy.

    Results are committed part by part. Those that prove nothing about the content go to the table `transient_path` instead.
    """
    cache = ImageCheckCache(root, compute_policy_digest(config))
    with cache.lease(), parquet.open_writer(transient_path, image_check_cache.IMAGE_CHECK_SCHEMA) as transient:
        cache.drop_damaged()
        missing = cache.count_missing(rows)
        if missing:
            with track("opening images", missing) as advance, cache.open_missing(rows) as batches:
                for part in _check_in_parts(config, image_root, (row for batch in batches for row in batch.to_pylist())):
                    permanent = [row for row in part if row["reason"] not in TRANSIENT_REASONS]
                    transient.write([row for row in part if row["reason"] in TRANSIENT_REASONS])
                    if permanent:
                        cache.add_batch(pa.RecordBatch.from_pylist(permanent, schema=image_check_cache.IMAGE_CHECK_SCHEMA))
                    advance(len(part))
    return cache


def _check_in_parts(config: ValidateConfig, image_root: Path, contents: Iterator[ImageCheckRow]) -> Iterator[list[ImageCheckRow]]:
    limits = ImageLimits(config.max_pixels, config.min_side, config.max_aspect_ratio)
    with DecoderPool(limits, config.seconds_per_item) as decoders:
        while batch := list(itertools.islice(contents, PART_ROWS)):
            groups = decoders.decode_all(DecodeRequest(str(image_root / row["path"]), row["content_digest"]) for row in batch)
            yield [_make_row(row["content_digest"], group) for row, group in zip(batch, groups, strict=True)]


def _make_row(digest: str, group: str | UnreadableImage) -> ImageCheckRow:
    if isinstance(group, UnreadableImage):
        return {"content_digest": digest, "content_group": None, "reason": group.reason, "message": str(group)}
    return {"content_digest": digest, "content_group": group, "reason": None, "message": None}
