"""Small pictures of indexed images, made from the files that they were indexed from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from indexmill.storage.digests import content_digest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_image

MAX_SIDE = 320
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 100_000_000


def thumbnail(image_root: str | None, row: dict[str, Any], max_side: int = MAX_SIDE) -> bytes | None:
    """A JPEG, at most `max_side` pixels long and wide, of an item's row. None where it is no image, or its file is gone or another by now.

    Snapshots hold vectors, not images. So the file is opened where it was indexed, and shown only while it has the bytes that were indexed.
    """
    if image_root is None or not row["path"]:
        return None
    folder = Path(image_root).resolve()
    path = (folder / row["path"]).resolve()
    try:
        if not path.is_relative_to(folder) or path.stat().st_size > MAX_FILE_BYTES:
            return None
        content = path.read_bytes()
        if content_digest(content) != row["content_digest"]:
            return None
        picture = read_image(content, ImageLimits(max_pixels=MAX_PIXELS), (max_side, max_side))
    except (OSError, UnreadableImage):
        return None
    picture.thumbnail((max_side, max_side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
