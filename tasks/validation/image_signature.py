"""Describe a picture by a group, equal for the same picture in another file, and a hash, close for pictures that look alike.

The group decides which images stay on one side of the split and never count as results for each other. It is a digest of
coarse features, so it depends on the image alone: which of the lowest frequencies are strong, the color of what is colored,
and the shade of what is dark. Re-encoding and resizing seldom change them; docs/evaluation.md has the rates.

A picture whose lowest frequencies say nothing has the group of its color if it is flat (a swatch, a blank page), and
otherwise (a fine pattern) the group of its bytes. Where there is transparency, the picture on white and the picture on black
both count, since white shapes on white are nothing.

The hash consists of imagehash's 256-bit pHash and of the two colors and the shade in unary code, so that the Hamming distance
adds up the differing frequencies and the differing color steps.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image, ImageStat

from indexmill.storage.digests import content_digest

SIDE = 64  # pixels of the reduced picture
FREQUENCIES = 8
PHASH_BITS = 256
COLOR_BITS, SHADE_BITS = 128, 64
HASH_BYTES = (PHASH_BITS + 2 * COLOR_BITS + SHADE_BITS) // 8
STRONG = 0.6  # standard deviations; near 0 the sign of a frequency changes with the encoding
FLAT_DEVIATION = 1.5  # levels of 255; less is one color to the eye
MIN_CONTRAST = 0.25  # levels; re-encoding changes a frequency by 0.01 to 0.05
MIN_CHROMA = 6  # levels; what is less colored counts as gray
COLOR_STEP, SHADE_STEP, PATTERN_STEP, LUMA_STEP = 20, 20, 8, 12  # levels per step of a group's features


class ImageSignature(NamedTuple):
    """The group as 32 hexadecimal digits, and the perceptual hash as 2 x HASH_BYTES ones."""

    group: str
    perceptual_hash: str


class _Features(NamedTuple):
    """What is seen of a picture on one background; `strong`, the lowest frequencies, is None if they say nothing."""

    strong: bytes | None
    steps: tuple[int, ...]
    color: np.ndarray
    shade: float
    flat_color: tuple[int, ...] | None


def compute_signature(content: bytes, on_white: Image.Image, on_black: Image.Image | None = None) -> ImageSignature:
    """Compute the signature of an image.

    Args:
        content: The file's bytes, the group of a picture that nothing else tells apart.
        on_white: The picture in RGB, what is transparent in white.
        on_black: The same on black; None for an image without transparency.
    """
    backgrounds = [picture for picture in (on_white, on_black) if picture is not None]
    features = [_measure(picture) for picture in backgrounds]
    if all(feature.strong is None and feature.flat_color is None for feature in features):
        group = content_digest(content)
    else:
        group = content_digest(repr([_describe(feature, content) for feature in features]).encode())
    for picture, feature in zip(backgrounds, features, strict=True):
        if feature.strong is not None:
            return ImageSignature(group, _compute_hash(picture, feature))
    # Bits of a picture that says nothing would be close to all others of its kind.
    return ImageSignature(group, hashlib.shake_128(group.encode()).hexdigest(HASH_BYTES))


def _describe(feature: _Features, content: bytes) -> object:
    if feature.flat_color is not None:
        return feature.flat_color
    return (feature.strong.hex(), feature.steps) if feature.strong is not None else content_digest(content)


def _measure(picture: Image.Image) -> _Features:
    statistics = ImageStat.Stat(picture)
    reduced = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).convert("YCbCr"), np.float64)
    luma, chroma = reduced[:, :, 0], reduced[:, :, 1:] - 128
    spectrum = _transform(luma)
    lowest = spectrum[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    color, shade = _average_color(chroma), float(((255 - luma) * luma).sum() / max((255 - luma).sum(), 1))
    pattern = np.concatenate([_transform(chroma[:, :, channel])[:2, :2].ravel()[1:] for channel in range(2)])
    amplitudes = spectrum[:4, :4].ravel()[1:]
    steps = (color / COLOR_STEP, [shade / SHADE_STEP], pattern / PATTERN_STEP, amplitudes / LUMA_STEP)
    return _Features(
        strong=np.packbits(lowest > STRONG * lowest.std()).tobytes() if lowest.std() > MIN_CONTRAST else None,
        steps=tuple(round(step) for part in steps for step in part),
        color=color,
        shade=shade,
        flat_color=tuple(round(level) for level in statistics.mean) if max(statistics.stddev) < FLAT_DEVIATION else None,
    )


def _average_color(chroma: np.ndarray) -> np.ndarray:
    """Average Cb and Cr, weighted by how colored a pixel is: a small red thing on white is red. Near 0 for gray pictures."""
    weights = np.maximum(0, np.hypot(chroma[:, :, 0], chroma[:, :, 1]) - MIN_CHROMA) ** 2
    return (chroma * weights[:, :, None]).sum((0, 1)) / (weights.sum() + 0.5 * weights.size)


def _transform(values: np.ndarray) -> np.ndarray:
    """Transform an array of (SIDE, SIDE) by the orthonormal DCT-II, scaled so that the first coefficient is the mean."""
    cosines = _build_cosines()
    return np.asarray(cosines @ values @ cosines.T / SIDE)


@cache
def _build_cosines() -> np.ndarray:
    positions = np.arange(SIDE)
    cosines = np.cos(np.pi * (2 * positions + 1) * positions[:, None] / (2 * SIDE)) * np.sqrt(2 / SIDE)
    cosines[0] /= np.sqrt(2)
    return cosines


def _compute_hash(picture: Image.Image, feature: _Features) -> str:
    bits = [imagehash.phash(picture, hash_size=16).hash.ravel()]
    bits += [_count_in_unary((channel + 128) / 256, COLOR_BITS) for channel in feature.color]
    bits += [_count_in_unary(feature.shade / 256, SHADE_BITS)]
    return np.packbits(np.concatenate(bits)).tobytes().hex()


def _count_in_unary(fraction: float, bits: int) -> np.ndarray:
    return np.arange(bits) < round(fraction * bits)
