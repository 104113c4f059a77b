"""From the samples that a decoder gives to the picture that a person sees: 8-bit RGB, opaque, the right way up.

A colour profile (ICC) leaves the pixels as they are: nearly all are sRGB's, and the encoders were trained on such raw values.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, ImageChops
from PIL.TiffImagePlugin import TiffImageFile

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def visible(image: Image.Image, depth: int = 8) -> Image.Image:
    """The loaded image as RGB: turned as its EXIF says, transparency on white, deep samples scaled to 8 bits.

    depth: bits a sample in the file, where a transparent colour is given in them (PNG).
    """
    return _upright(_opaque(image, depth), _orientation(image))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # broken EXIF, which fails in many ways, does not spoil the pixels


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image.Image, depth: int) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Only Adobe's JPEGs store ink upside down; Pillow turns every one over.
        image = ImageChops.invert(image)
    if image.has_transparency_data:
        if image.format == "PNG" and image.mode in ("L", "RGB"):
            image.info["transparency"] = _key_colour(image.info["transparency"], depth)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _key_colour(key: int | tuple[int, ...], depth: int) -> int | tuple[int, ...]:
    """The transparent colour in 8 bits; Pillow scales a PNG's samples to 8 bits and leaves this as it was."""
    if isinstance(key, tuple):
        return tuple(value >> (depth - 8) & 255 for value in key)
    return (key & ((1 << depth) - 1)) * 255 // ((1 << depth) - 1)


def _grey(image: Image.Image) -> Image.Image:
    """Deep grey samples in 8 bits; Pillow's own conversion clips at 255 where it should scale."""
    values = np.asarray(image, np.float32)
    low, high = _range(image.mode, values[np.isfinite(values)])
    with np.errstate(invalid="ignore"):
        shades = np.nan_to_num((np.clip(values, low, high) - low) * (255 / (high - low)))
    if image.mode.startswith("I;16"):
        if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0:
            shades = 255 - shades  # zero is white
        shades[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(np.rint(shades).astype(np.uint8))


def _range(mode: str, values: np.ndarray) -> tuple[float, float]:
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
