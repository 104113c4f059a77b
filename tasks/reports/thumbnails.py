"""Small pictures inside the page, within a budget of bytes. They are made in processes of their own: a rejected image may do any harm."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from indexmill.tasks.validation.decoder_pool import DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_image

THUMBNAIL_SIDE = 160  # pixels; shown at about 110
MAX_THUMBNAIL_BYTES = 5_000_000  # bytes of all pictures on the page, as base64
LIMITS = ImageLimits(max_pixels=100_000_000)
DECODE_TIMEOUT_SECONDS = 10.0


def make_thumbnails(paths: Iterable[str], budget: int = MAX_THUMBNAIL_BYTES) -> dict[str, str]:
    """path -> the image as a small JPEG in a data: URL. A path counts as often as it is given; what cannot be read has no picture.

    Paths are taken in their order until the budget is spent, and one that is too large for what is left is passed over.
    """
    uses = Counter(paths)
    made: dict[str, str] = {}
    if not uses:
        return made
    with DecoderPool(LIMITS, timeout_s=DECODE_TIMEOUT_SECONDS, decode=thumbnail) as decoders:
        for path, answer in zip(uses, decoders.decode_all(DecodeRequest(path, "") for path in uses), strict=True):
            if isinstance(answer, str) and len(answer) * uses[path] <= budget:
                budget -= len(answer) * uses[path]
                made[path] = answer
    return made


def thumbnail(request: DecodeRequest, limits: ImageLimits) -> str:
    """One image within SIDE x SIDE as a data: URL. Raises UnreadableImage."""
    try:
        content = Path(request.path).read_bytes()
    except OSError as problem:
        raise UnreadableImage("unopenable", str(problem)) from None
    image = read_image(content, limits, decode_size=(THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
