"""Resize pixels as torch does, to the last bit, without importing it.

A query's pixels are then those that its image would have in the index. torch resizes uint8 images in integers, as Pillow does:
first the lines, then the columns, with weights rounded to 16 bits. Pillow's weights have 22 bits, so its results differ by up
to 2 of 255."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # of the filter, in pixels of the smaller image
WEIGHT_BITS = 15  # without the sign
MAX_PRECISION = 22


class _Taps(NamedTuple):
    """Which pixels of a line make up each new pixel, and their weights.

    Attributes:
        starts: int (n,), the first pixel.
        counts: int (n,), how many.
        weights: int32 (n, most), in units of 2 ** -precision; 0 beyond the count.
        precision: A number of bits.
    """

    starts: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    precision: int


def resize_pixels(pixels: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """Resize with antialiasing, like `indexmill.tasks.encoding.preprocessing.resize_pixels`.

    Args:
        pixels: uint8 (any, any, 3).
        height: Of the result.
        width: Of the result.
        mode: `bicubic` or `bilinear`.

    Returns:
        uint8 (height, width, 3), contiguous.
    """
    if width != pixels.shape[1]:
        pixels = _resize_lines(pixels, width, mode)
    if height != pixels.shape[0]:
        pixels = _resize_lines(pixels.transpose(1, 0, 2), height, mode).transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def _resize_lines(pixels: np.ndarray, width: int, mode: str) -> np.ndarray:
    """Resize uint8 (lines, any, 3) to uint8 (lines, width, 3)."""
    taps = _compute_taps(pixels.shape[1], width, mode)
    resized = np.empty((len(pixels), width, 3), np.uint8)
    half = 1 << (taps.precision - 1)
    for column, (start, count) in enumerate(zip(taps.starts.tolist(), taps.counts.tolist(), strict=True)):
        window = pixels[:, start : start + count].astype(np.int32)
        sums = np.einsum("lpc,p->lc", window, taps.weights[column, :count]) + half
        resized[:, column] = np.clip(sums >> taps.precision, 0, 255)
    return resized


def _compute_taps(length: int, new_length: int, mode: str) -> _Taps:
    """Compute what torch's `_compute_index_ranges_int16_weights` does, in the same order of operations."""
    scale = length / new_length
    stretch = max(scale, 1.0)
    support = SUPPORT[mode] * stretch
    centers = scale * (np.arange(new_length) + 0.5)
    starts = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    most = int(np.ceil(np.float32(support))) * 2 + 1
    counts = np.clip(np.minimum((centers + support + 0.5).astype(np.int64), length) - starts, 0, most)
    taps = np.arange(most)
    distances = (taps + starts[:, None] - centers[:, None] + 0.5) * (1 / stretch)
    weights = np.where(taps < counts[:, None], _FILTERS[mode](np.abs(distances)), 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed from left to right
    precision = _choose_precision(float(weights.max()))
    scaled = weights * (1 << precision)
    return _Taps(starts, counts, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), precision)


def _choose_precision(largest: float) -> int:
    """Return the most bits with which the largest weight still fits."""
    return next((bits for bits in range(MAX_PRECISION) if int(0.5 + largest * (1 << (bits + 1))) >= 1 << WEIGHT_BITS), MAX_PRECISION)


def _triangle(distances: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distances, 0)


def _cubic(distances: np.ndarray) -> np.ndarray:
    """Compute Keys' cubic convolution with a = -0.5, as Pillow and torch have it."""
    a, x = -0.5, distances
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
