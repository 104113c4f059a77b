"""Decode new images once and cache the result by content."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexmill.configs.models import ValidateConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.image_check_cache import IMAGE_CHECK_SCHEMA, ImageCheckCache
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.validation.decoder_pool import DecodeResult, DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage

IMAGE_READER_VERSION = 2  # raise it when image_reader.py or image_signature.py gives another result
GROUP_DIGITS = 32
PART_ROWS = 20_000  # the most images that a killed run has to decode again
# Reasons that may not recur for the same content (a busy machine is slow), so they are checked again in every build.
TRANSIENT_REASONS = frozenset({"changed", "timeout", "unopenable"})


def check_images(root: Root, config: ValidateConfig, *, image_root: Path, items_path: Path, transient_path: Path) -> ImageCheckCache:
    """Decode every content of a table that is not in the cache yet, and add the results part by part.

    Args:
        root: The storage root.
        config: The limits of images.
        image_root: The folder that image paths are relative to.
        items_path: A Parquet file with the columns content_digest and path.
        transient_path: The Parquet file to write results to that say nothing about the content, see TRANSIENT_REASONS.

    Returns:
        The cache of results under this config and these library versions.
    """
    cache = ImageCheckCache(root, compute_policy_digest(config))
    with cache.lease(), parquet.open_writer(transient_path, IMAGE_CHECK_SCHEMA) as transient_writer:
        cache.drop_damaged()
        missing_count = cache.count_missing(items_path)
        if missing_count:
            with track("decoding images", missing_count) as advance, cache.open_missing(items_path) as batches:
                contents = (row for batch in batches for row in batch.to_pylist())
                for results in _check_in_parts(config, image_root, contents):
                    permanent = [row for row in results if row["reason"] not in TRANSIENT_REASONS]
                    transient_writer.write([row for row in results if row["reason"] in TRANSIENT_REASONS])
                    if permanent:
                        cache.add_batch(pa.RecordBatch.from_pylist(permanent, schema=IMAGE_CHECK_SCHEMA))
                    advance(len(results))
    return cache


def compute_policy_digest(config: ValidateConfig) -> str:
    """Return a digest of all that a result depends on besides the image's bytes: limits and library versions."""
    limits = {name: getattr(config, name) for name in ("max_pixels", "min_side", "max_aspect_ratio", "seconds_per_item")}
    return json_digest([IMAGE_READER_VERSION, version("pillow"), version("ImageHash"), limits])[:32]


def _check_in_parts(config: ValidateConfig, image_root: Path, contents: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    limits = ImageLimits(config.max_pixels, config.min_side, config.max_aspect_ratio)
    with DecoderPool(limits, timeout_s=config.seconds_per_item) as pool:
        while batch := list(itertools.islice(contents, PART_ROWS)):
            results = pool.decode_all(DecodeRequest(str(image_root / row["path"]), row["content_digest"]) for row in batch)
            yield [_make_row(row["content_digest"], result) for row, result in zip(batch, results, strict=True)]


def _make_row(digest: str, result: DecodeResult) -> dict[str, Any]:
    if isinstance(result, UnreadableImage):
        return {"content_digest": digest, "content_group": None, "perceptual_hash": None, "reason": result.reason, "message": str(result)}
    group, perceptual_hash = result[:GROUP_DIGITS], result[GROUP_DIGITS:]
    return {"content_digest": digest, "content_group": group, "perceptual_hash": perceptual_hash, "reason": None, "message": None}
