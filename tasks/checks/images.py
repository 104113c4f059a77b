"""Reading an image right, or saying why it cannot be read. Validation and encoding both read here, so both see the same pixels."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import imagehash
from PIL import Image, UnidentifiedImageError

from indexmill.tasks.checks.formats import DECODED, decoded_format, other_format
from indexmill.tasks.checks.pixels import visible

Image.MAX_IMAGE_PIXELS = None  # for the whole process: `Limits.max_pixels` is the only measure


@dataclass(frozen=True)
class Limits:
    """What the header may claim: at most so many pixels, at least so many on the shorter side, at most so many times as long as wide."""

    max_pixels: float = math.inf
    min_side: int = 1
    max_aspect_ratio: float = math.inf


UNLIMITED = Limits()  # for images that validation has measured


class UnreadableImage(Exception):
    """An image that cannot be used. `reason` is a short code, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def read_image(content: bytes, limits: Limits, decode_size: tuple[int, int] | None = None) -> Image.Image:
    """The picture as RGB: EXIF orientation applied, transparency laid on white, the first frame of an animation.

    wants: a width and height of which the picture is needed; a JPEG of more than twice both is decoded at a half, a quarter or an eighth
    of its size, still at least twice as large, in a fraction of the time. Scaled down to `decode_size`, it differs from the whole picture's
    by less than 1 of 255 on average.

    Raises UnreadableImage: `empty`, `not_an_image`, `unsupported` (an image of a format that is not decoded), `damaged` (cut short,
    a wrong checksum, or data that do not decode), `too_large`, `too_small`, `odd_shape` (all three by the header, before decoding).
    Damage that a format does not guard against (a changed byte amid a JPEG's or GIF's data) can pass as a picture.
    """
    # What Pillow merely warns of leaves the pixels readable. Not within catch_warnings, which threads undo for one another.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if not content:
        raise UnreadableImage("empty", "the file has no bytes")
    try:
        return _decoded(content, limits, decode_size)
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _unidentified(content) from None
    except Exception as problem:  # decoders fed on broken bytes raise nearly anything
        raise UnreadableImage("damaged", f"{type(problem).__name__}: {problem}") from None


def perceptual_hash(image: Image.Image) -> str:
    """A 256-bit pHash as 64 hexadecimal digits, equal for the same picture stored another way.

    The signs of the 16 x 16 lowest DCT coefficients of the 64 x 64 grey picture against their median (imagehash's `phash`).
    """
    return str(imagehash.phash(image, hash_size=16))


def _decoded(content: bytes, limits: Limits, decode_size: tuple[int, int] | None) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=DECODED)
    _check_size(image.size, limits)
    depth = 8
    if image.format == "PNG":
        image.verify()  # decoding alone skips the checksums of the pixel data, and a verified image must be opened again
        image = Image.open(io.BytesIO(content), formats=DECODED)
        depth = content[24]  # of the header, which always comes first
    if decode_size and image.format == "JPEG":
        image.draft(None, (2 * decode_size[0], 2 * decode_size[1]))
    image.load()
    return visible(image, depth)


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    shape, short, long = f"{size[0]} x {size[1]} pixels", min(size), max(size)
    if short * long > limits.max_pixels:
        raise UnreadableImage("too_large", f"{shape} are more than {limits.max_pixels}")
    if short < limits.min_side:
        raise UnreadableImage("too_small", f"{shape}, and the shorter side must have {limits.min_side}")
    if long > short * limits.max_aspect_ratio:
        raise UnreadableImage("odd_shape", f"{shape}, and one side may be {limits.max_aspect_ratio:g} times the other")


def _unidentified(content: bytes) -> UnreadableImage:
    if name := decoded_format(content):
        return UnreadableImage("damaged", f"begins like a {name}, and its header cannot be read")
    if name := other_format(content):
        return UnreadableImage("unsupported", f"{name} is not among {', '.join(DECODED)}")
    return UnreadableImage("not_an_image", f"no image format begins with {content[:8]!r}")
