"""Decode image files to 8-bit RGB, or give the reason why an image is unreadable.

Validation, encoding and serving read images here, so all see the same pixels. Formats are detected from the first
bytes, never from file names. The result is opaque, oriented by EXIF, and a fixed 8 bits per channel. ICC color
profiles are ignored: nearly all are sRGB, and the encoders were trained on raw values.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from indexmill.tasks.validation.icons import PNG_SIGNATURE, choose_picture
from indexmill.tasks.validation.image_formats import (
    HEIF,
    INSTALL_HEIF,
    SUPPORTED_FORMATS,
    detect_supported_format,
    detect_unsupported_format,
    list_readable_formats,
)
from indexmill.tasks.validation.image_signature import ImageSignature, compute_signature

Result = TypeVar("Result")

_ORIENTATION_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})

Image.MAX_IMAGE_PIXELS = None  # for the whole process: `ImageLimits.max_pixels` is the only limit


@dataclass(frozen=True)
class ImageLimits:
    """Limits on the size in the header: pixels in all, pixels on the shorter side, longer side / shorter side."""

    max_pixels: float = math.inf
    min_side: int = 1
    max_aspect_ratio: float = math.inf


UNLIMITED = ImageLimits()  # for images that validation has checked


class UnreadableImage(Exception):
    """An unusable image. `reason` is a stable code; the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def read_image(content: bytes, limits: ImageLimits, decode_size: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image as RGB: EXIF orientation applied, transparency on white, the first frame of an animation.

    Args:
        content: The file's bytes.
        limits: Limits on size and shape, checked before decoding.
        decode_size: The width and height that the caller needs. A JPEG more than twice as large in both is decoded at
            1/2, 1/4 or 1/8 of its size, still at least twice `decode_size`, in a fraction of the time. Scaled down to
            `decode_size`, it differs from the full image by less than 1 of 255 on average.

    Raises:
        UnreadableImage: `empty`, `not_an_image`, `unsupported` (an image format that is not decoded), `damaged`
            (truncated, a wrong checksum, or undecodable data), `too_large`, `too_small` or `odd_shape`. Damage that a
            format cannot detect (a changed byte inside JPEG or GIF data) gives wrong pixels instead.
    """
    return _translate_errors(content, lambda: convert_to_rgb(*_decode(content, limits, decode_size)))


def read_signature(content: bytes, limits: ImageLimits) -> ImageSignature:
    """Decode an image as `read_image` does, and compute its signature."""
    return _translate_errors(content, lambda: _read_signature(content, limits))


def _read_signature(content: bytes, limits: ImageLimits) -> ImageSignature:
    image, bit_depth = _decode(content, limits, None)
    has_transparency = image.has_transparency_data
    on_white = convert_to_rgb(image, bit_depth)
    if not has_transparency:
        return compute_signature(content, on_white)
    image, bit_depth = _decode(content, limits, None)  # the conversion changes the image
    on_black = convert_to_rgb(image, bit_depth, background="black")
    return compute_signature(content, on_white, on_black if ImageChops.difference(on_white, on_black).getbbox() else None)


def _translate_errors(content: bytes, decode: Callable[[], Result]) -> Result:
    # Pillow warns about harmless properties of files. catch_warnings is no alternative, since it is not thread-safe.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    if not content:
        raise UnreadableImage("empty", "the file has no bytes")
    try:
        return decode()
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _build_unidentified_error(content) from None
    except Exception as error:  # decoders raise nearly anything for broken bytes
        raise UnreadableImage("damaged", f"{type(error).__name__}: {error}") from None


def convert_to_rgb(image: Image.Image, bit_depth: int = 8, background: str = "white") -> Image.Image:
    """Convert a loaded image to RGB: EXIF orientation applied, transparency on a background, deep samples scaled to 8 bits.

    Args:
        image: The image, in any mode.
        bit_depth: Bits per sample in the file. PNG states its transparent color in that depth.
        background: The color behind what is transparent.
    """
    return _apply_orientation(_flatten_to_rgb(image, bit_depth, background), _read_orientation(image))


def _decode(content: bytes, limits: ImageLimits, decode_size: tuple[int, int] | None) -> tuple[Image.Image, int]:
    """Return the loaded image and its bits per sample.

    Pillow limits texts and color profiles of PNG files, which say nothing about the pixels, and verifies their checksums.
    A file that fails is read once more without them.
    """
    if detect_supported_format(content) == "ICO":
        size, _, content = choose_picture(content)
        _check_size(size, limits)
    try:
        return _load(content, limits, decode_size)
    except (UnreadableImage, MemoryError):
        raise
    except Exception:
        if (pixels := _strip_png_metadata(content)) == content:
            raise
        return _load(pixels, limits, decode_size)


def _strip_png_metadata(content: bytes) -> bytes:
    """Return a PNG file without the chunks that do not change its pixels; other contents as they are."""
    if not content.startswith(PNG_SIGNATURE):
        return content
    kept, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        size, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + 8]
        end = position + 12 + size
        if kind in PNG_PIXEL_CHUNKS:
            kept.append(content[position:end])
        elif not kind.isalpha() or kind[:1].isupper():
            return content  # not a chunk, or one that a decoder must know
        position = end
    return b"".join(kept)


def _load(content: bytes, limits: ImageLimits, decode_size: tuple[int, int] | None) -> tuple[Image.Image, int]:
    formats = list_readable_formats(content)
    image = Image.open(io.BytesIO(content), formats=formats)
    _check_size(image.size, limits)
    bit_depth = 8
    if image.format == "PNG":
        image.verify()  # decoding does not verify checksums, and a verified image must be opened again
        image = Image.open(io.BytesIO(content), formats=formats)
        bit_depth = content[24]  # in the header, which always comes first
    if decode_size and image.format == "JPEG":
        image.draft(None, (2 * decode_size[0], 2 * decode_size[1]))
    image.load()
    return image, bit_depth


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    shape, short, long = f"{size[0]} x {size[1]} pixels", min(size), max(size)
    if short * long > limits.max_pixels:
        raise UnreadableImage("too_large", f"{shape}, more than the limit of {limits.max_pixels}")
    if short < limits.min_side:
        raise UnreadableImage("too_small", f"{shape}, the shorter side below the minimum of {limits.min_side}")
    if long > short * limits.max_aspect_ratio:
        raise UnreadableImage("odd_shape", f"{shape}, an aspect ratio above {limits.max_aspect_ratio:g}")


def _build_unidentified_error(content: bytes) -> UnreadableImage:
    if name := detect_supported_format(content):
        return UnreadableImage("damaged", f"starts like a {name} file, but its header is unreadable")
    if name := detect_unsupported_format(content):
        hint = f"; to read it: {INSTALL_HEIF}" if name == HEIF else ""
        return UnreadableImage("unsupported", f"{name} is not a supported format ({', '.join(SUPPORTED_FORMATS)}){hint}")
    return UnreadableImage("not_an_image", f"no image format starts with {content[:8]!r}")


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # broken EXIF fails in many ways, but the pixels are fine


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _ORIENTATION_TRANSPOSES.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _flatten_to_rgb(image: Image.Image, bit_depth: int, background: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Only Adobe's CMYK JPEGs are stored inverted, but Pillow inverts all.
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        if image.format == "PNG" and image.mode in ("L", "RGB"):
            image.info["transparency"] = _scale_transparent_color(image.info["transparency"], bit_depth)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def _scale_transparent_color(key: int | tuple[int, ...], bit_depth: int) -> int | tuple[int, ...]:
    """Scale the transparent color to 8 bits, since Pillow scales a PNG's samples but not this value."""
    if isinstance(key, tuple):
        return tuple(value >> (bit_depth - 8) & 255 for value in key)
    return (key & ((1 << bit_depth) - 1)) * 255 // ((1 << bit_depth) - 1)


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale deep gray samples to 8 bits, since Pillow's conversion clips them at 255."""
    values = np.asarray(image, np.float32)
    low, high = _find_value_range(image.mode, values[np.isfinite(values)])
    with np.errstate(invalid="ignore"):
        shades = np.nan_to_num((np.clip(values, low, high) - low) * (255 / (high - low)))
    if image.mode.startswith("I;16"):
        if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
            shades = 255 - shades  # zero is white
        shades[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(np.rint(shades).astype(np.uint8))


def _find_value_range(mode: str, values: np.ndarray) -> tuple[float, float]:
    """Return the values of black and white.

    For 16 bits, the full range. For 32 bits and floats, the narrowest usual range with all values (0 to 1 for floats, 0
    to 255, 0 to 65535), otherwise from the smallest value to the largest.
    """
    if mode.startswith("I;16"):
        return 0, 65535
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low >= 0:
        for top in (1, 255, 65535) if mode == "F" else (255, 65535):
            if high <= top:
                return 0, top
    return low, high if high > low else low + 1
