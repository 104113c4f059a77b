"""Opening the images that have not been opened before, and keeping what came of it by content."""

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
from indexmill.tasks.checks.decoder import Request
from indexmill.tasks.checks.decoding import Decoders
from indexmill.tasks.checks.images import Limits, UnreadableImage
from indexmill.tasks.progress import track

READER_VERSION = 1  # raised when tasks/checks/images.py reads an image another way
PART_ROWS = 20_000  # what a killed run has to open again at most
# What may be otherwise the next time although the content is the same (a busy machine is slow): tried again at every build.
PASSING = frozenset({"changed", "timeout", "unopenable"})

Row = dict[str, Any]


def policy(config: ValidateConfig) -> str:
    """What the result of opening an image depends on besides its bytes: the limits, and the versions of what reads it."""
    limits = {name: getattr(config, name) for name in ("max_pixels", "min_side", "max_aspect_ratio", "seconds_per_item")}
    return json_digest([READER_VERSION, version("pillow"), version("ImageHash"), limits])[:32]


def open_images(root: Root, config: ValidateConfig, image_root: Path, rows: Path, unopened: Path) -> ImageCheckCache:
    """Open each content of the table `rows` (content_digest, path) that was never opened under this policy.

    Results are committed part by part. Those that prove nothing about the content go to the table `unopened` instead.
    """
    known = ImageCheckCache(root, policy(config))
    with known.lease(), parquet.open_writer(unopened, image_check_cache.IMAGE_CHECK_SCHEMA) as passing:
        known.drop_damaged()
        missing = known.count_missing(rows)
        if missing:
            with track("opening images", missing) as advance, known.missing(rows) as batches:
                for part in _parts(config, image_root, (row for batch in batches for row in batch.to_pylist())):
                    lasting = [row for row in part if row["reason"] not in PASSING]
                    passing.write([row for row in part if row["reason"] in PASSING])
                    if lasting:
                        known.add(pa.RecordBatch.from_pylist(lasting, schema=image_check_cache.IMAGE_CHECK_SCHEMA))
                    advance(len(part))
    return known


def _parts(config: ValidateConfig, image_root: Path, contents: Iterator[Row]) -> Iterator[list[Row]]:
    limits = Limits(config.max_pixels, config.min_side, config.max_aspect_ratio)
    with Decoders(limits, config.seconds_per_item) as decoders:
        while chunk := list(itertools.islice(contents, PART_ROWS)):
            groups = decoders.groups(Request(str(image_root / row["path"]), row["content_digest"]) for row in chunk)
            yield [_result(row["content_digest"], group) for row, group in zip(chunk, groups, strict=True)]


def _result(digest: str, group: str | UnreadableImage) -> Row:
    if isinstance(group, UnreadableImage):
        return {"content_digest": digest, "content_group": None, "reason": group.reason, "message": str(group)}
    return {"content_digest": digest, "content_group": group, "reason": None, "message": None}
