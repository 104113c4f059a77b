"""Thumbnails for the report, within a byte budget.

They are made in separate processes, because decoding a rejected image may crash.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable

from PIL import Image

from indexmill.storage.contents import read_content
from indexmill.tasks.validation.decoder_pool import DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_image

THUMBNAIL_SIDE = 160  # pixels; shown at about 110
MAX_THUMBNAIL_BYTES = 5_000_000  # of all thumbnails on a page, as base64
LIMITS = ImageLimits(max_pixels=100_000_000)
DECODE_TIMEOUT_SECONDS = 10.0


def make_thumbnails(locations: Iterable[str], budget: int = MAX_THUMBNAIL_BYTES) -> dict[str, str]:
    """Make thumbnails until the budget is spent.

    Args:
        locations: Images in the order of the page; one that is shown twice is listed twice and costs twice.
        budget: Bytes of base64. A thumbnail that does not fit into the rest is skipped.

    Returns:
        Location -> JPEG as a data: URL. Images that cannot be read are left out.
    """
    uses = Counter(locations)
    thumbnails: dict[str, str] = {}
    if not uses:
        return thumbnails
    with DecoderPool(LIMITS, timeout_s=DECODE_TIMEOUT_SECONDS, decode=make_thumbnail) as decoders:
        results = decoders.decode_all(DecodeRequest(location, "") for location in uses)
        for location, thumbnail in zip(uses, results, strict=True):
            if isinstance(thumbnail, str) and len(thumbnail) * uses[location] <= budget:
                budget -= len(thumbnail) * uses[location]
                thumbnails[location] = thumbnail
    return thumbnails


def make_thumbnail(request: DecodeRequest, limits: ImageLimits) -> str:
    """Return one image, at most THUMBNAIL_SIDE pixels wide and high, as a data: URL. Raises UnreadableImage."""
    try:
        content = read_content(request.location)
    except OSError as error:
        raise UnreadableImage("unopenable", str(error)) from None
    image = read_image(content, limits, decode_size=(THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
