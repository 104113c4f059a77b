"""Reading an image right, or saying why it cannot be read. Validation and encoding both read here, so both see the same pixels."""

from __future__ import annotations

import io
import warnings

import imagehash
from PIL import Image, ImageOps, UnidentifiedImageError


class UnreadableImage(Exception):
    """An image that cannot be used. `reason` is a short code, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_image(content: bytes, max_pixels: int) -> Image.Image:
    """The picture as RGB: EXIF orientation applied, transparency laid on white, the first frame of an animation.

    Raises UnreadableImage (empty, not_an_image, too_large, damaged).
    """
    if not content:
        raise UnreadableImage("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images on its own scale; max_pixels is ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            if image.width * image.height > max_pixels:
                raise UnreadableImage("too_large", f"{image.width} x {image.height} pixels are more than {max_pixels}")
            image.load()
    except UnidentifiedImageError:
        raise UnreadableImage("not_an_image", f"no image format begins with {content[:8]!r}") from None
    except Image.DecompressionBombError as problem:
        raise UnreadableImage("too_large", str(problem)) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as problem:
        raise UnreadableImage("damaged", f"{type(problem).__name__}: {problem}") from None
    return _flattened(ImageOps.exif_transpose(image))


def perceptual_hash(image: Image.Image) -> str:
    """A 256-bit pHash as 64 hexadecimal digits, equal for the same picture stored another way.

    The signs of the 16 x 16 lowest DCT coefficients of the 64 x 64 grey picture against their median (imagehash's `phash`).
    """
    return str(imagehash.phash(image, hash_size=16))


def _flattened(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # 16-bit grey: Pillow's own conversion clips at 255 where it should scale.
        image = image.convert("I").point(lambda value: value * (255 / 65535)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
