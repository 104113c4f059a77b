"""Thumbnails of indexed images, made from the original files."""

from __future__ import annotations

import io
from typing import Any

from indexmill.storage.contents import find_contained_location, read_content
from indexmill.storage.digests import content_digest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_image

MAX_SIDE = 320  # pixels
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 100_000_000


def make_thumbnail(image_root: str | None, row: dict[str, Any], max_side: int = MAX_SIDE) -> bytes | None:
    """Make a JPEG thumbnail of an item.

    Snapshots hold vectors, not images, so the original file is read, and used only if its bytes are still those that
    were indexed.

    Args:
        image_root: The folder that image paths are relative to; None for texts.
        row: The item's row, with `path` and `content_digest`.
        max_side: The largest width and height in pixels.

    Returns:
        The JPEG; None if the item is not an image, or its file is missing or has changed.
    """
    if image_root is None or not row["path"]:
        return None
    try:
        if (location := find_contained_location(image_root, row["path"])) is None:
            return None
        content = read_content(location, MAX_FILE_BYTES)
        if content_digest(content) != row["content_digest"]:
            return None
        image = read_image(content, ImageLimits(max_pixels=MAX_PIXELS), (max_side, max_side))
    except (OSError, UnreadableImage):
        return None
    image.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
