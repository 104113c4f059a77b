"""Decode image files to 8-bit RGB, or give the reason why an image is unreadable.

Validation, encoding and serving read images here, so all see the same pixels. Formats are detected from the first
bytes, never from file names. The result is opaque, oriented by EXIF, and a fixed 8 bits per channel. ICC color
profiles are ignored: nearly all are sRGB, and the encoders were trained on raw values."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

# The formats that are decoded. Leaving the others out keeps Pillow from starting interpreters (Ghostscript, for EPS).
SUPPORTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_SUPPORTED_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_UNSUPPORTED_SIGNATURES = {
    b"8BPS": "PSD",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"icns": "ICNS",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"gimp xcf": "XCF",
} | {b"P%d%c" % (kind, gap): "Netpbm" for kind in range(1, 8) for gap in b" \n\r\t"}
_ISO_MEDIA_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF"}


def detect_supported_format(content: bytes) -> str | None:
    """The format among DECODED that these bytes begin like."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    return _match_signature(content, _SUPPORTED_SIGNATURES)


def detect_unsupported_format(content: bytes) -> str | None:
    """The image format that these bytes begin like, of those that are known and not decoded."""
    if content[4:8] == b"ftyp":
        return _ISO_MEDIA_BRANDS.get(content[8:12])
    return _match_signature(content, _UNSUPPORTED_SIGNATURES)


def _match_signature(content: bytes, starts: dict[bytes, str]) -> str | None:
    return next((name for start, name in starts.items() if content.startswith(start)), None)


_ORIENTATION_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def convert_to_rgb(image: Image.Image, bit_depth: int = 8) -> Image.Image:
    """The loaded image as RGB: turned as its EXIF says, transparency on white, deep samples scaled to 8 bits.

    depth: bits a sample in the file, where a transparent colour is given in them (PNG).
    """
    return _apply_orientation(_flatten_to_rgb(image, bit_depth), _read_orientation(image))


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # broken EXIF, which fails in many ways, does not spoil the pixels


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _ORIENTATION_TRANSPOSES.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _flatten_to_rgb(image: Image.Image, bit_depth: int) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _scale_to_8_bits(image).convert("RGB")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Only Adobe's JPEGs store ink upside down; Pillow turns every one over.
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        if image.format == "PNG" and image.mode in ("L", "RGB"):
            image.info["transparency"] = _scale_transparent_color(image.info["transparency"], bit_depth)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _scale_transparent_color(key: int | tuple[int, ...], bit_depth: int) -> int | tuple[int, ...]:
    """The transparent colour in 8 bits; Pillow scales a PNG's samples to 8 bits and leaves this as it was."""
    if isinstance(key, tuple):
        return tuple(value >> (bit_depth - 8) & 255 for value in key)
    return (key & ((1 << bit_depth) - 1)) * 255 // ((1 << bit_depth) - 1)


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Deep grey samples in 8 bits; Pillow's own conversion clips at 255 where it should scale."""
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
    """The values that stand for black and white.

    16 bits say it themselves. Of 32 bits or floats it is the narrowest customary range that holds all values (0 to 1 for floats, to
    255, to 65535), or else from the least value to the greatest.
    """
    if mode.startswith("I;16"):
        return 0, 65535
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low >= 0:
        for top in (1, 255, 65535) if mode == "F" else (255, 65535):
            if high <= top:
                return 0, top
    return low, high if high > low else low + 1


Image.MAX_IMAGE_PIXELS = None  # for the whole process: `ImageLimits.max_pixels` is the only measure


@dataclass(frozen=True)
class ImageLimits:
    """What the header may claim: at most so many pixels, at least so many on the shorter side, at most so many times as long as wide."""

    max_pixels: float = math.inf
    min_side: int = 1
    max_aspect_ratio: float = math.inf


UNLIMITED = ImageLimits()  # for images that validation has measured


class UnreadableImage(Exception):
    """An image that cannot be used. `reason` is a short code, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def read_image(content: bytes, limits: ImageLimits, decode_size: tuple[int, int] | None = None) -> Image.Image:
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
        return _decode(content, limits, decode_size)
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _build_unidentified_error(content) from None
    except Exception as error:  # decoders fed on broken bytes raise nearly anything
        raise UnreadableImage("damaged", f"{type(error).__name__}: {error}") from None


def compute_perceptual_hash(image: Image.Image) -> str:
    """A 256-bit pHash as 64 hexadecimal digits, equal for the same picture stored another way.

    The signs of the 16 x 16 lowest DCT coefficients of the 64 x 64 grey picture against their median (imagehash's `phash`).
    """
    return str(imagehash.phash(image, hash_size=16))


def _decode(content: bytes, limits: ImageLimits, decode_size: tuple[int, int] | None) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=SUPPORTED_FORMATS)
    _check_size(image.size, limits)
    bit_depth = 8
    if image.format == "PNG":
        image.verify()  # decoding alone skips the checksums of the pixel data, and a verified image must be opened again
        image = Image.open(io.BytesIO(content), formats=SUPPORTED_FORMATS)
        bit_depth = content[24]  # of the header, which always comes first
    if decode_size and image.format == "JPEG":
        image.draft(None, (2 * decode_size[0], 2 * decode_size[1]))
    image.load()
    return convert_to_rgb(image, bit_depth)


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    shape, short, long = f"{size[0]} x {size[1]} pixels", min(size), max(size)
    if short * long > limits.max_pixels:
        raise UnreadableImage("too_large", f"{shape} are more than {limits.max_pixels}")
    if short < limits.min_side:
        raise UnreadableImage("too_small", f"{shape}, and the shorter side must have {limits.min_side}")
    if long > short * limits.max_aspect_ratio:
        raise UnreadableImage("odd_shape", f"{shape}, and one side may be {limits.max_aspect_ratio:g} times the other")


def _build_unidentified_error(content: bytes) -> UnreadableImage:
    if name := detect_supported_format(content):
        return UnreadableImage("damaged", f"begins like a {name}, and its header cannot be read")
    if name := detect_unsupported_format(content):
        return UnreadableImage("unsupported", f"{name} is not among {', '.join(SUPPORTED_FORMATS)}")
    return UnreadableImage("not_an_image", f"no image format begins with {content[:8]!r}")
