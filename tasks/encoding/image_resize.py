"""Give an image the size that a model takes. What resizes the pixels is up to the caller: torch, or NumPy where torch is not loaded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from indexmill.storage.onnx_exports import ImageResize

# Maps uint8 (any, any, 3), a height, a width and a filter to uint8 (height, width, 3).
ResizePixels = Callable[[np.ndarray, int, int, str], np.ndarray]


def resize_image(image: Image.Image, resize: ImageResize, resize_pixels: ResizePixels) -> np.ndarray:
    """Resize and crop an RGB image.

    Returns:
        uint8 (height, width, 3), contiguous.
    """
    pixels, height, width = np.array(image), resize.height, resize.width
    if resize.method == "squash":
        return resize_pixels(pixels, height, width, resize.filter)
    edge = min(image.size)
    if resize.method == "crop_first":
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        return resize_pixels(pixels[top : top + edge, left : left + edge], height, width, resize.filter)
    full_width, full_height = (int(resize.short_edge * length / edge) for length in image.size)
    top, left = round((full_height - height) / 2), round((full_width - width) / 2)
    resized = resize_pixels(pixels, full_height, full_width, resize.filter)
    return np.ascontiguousarray(resized[top : top + height, left : left + width])


def get_decode_size(resize: ImageResize) -> tuple[int, int]:
    """Return the width and height that a decoded image must cover."""
    edge = resize.short_edge or max(resize.height, resize.width)
    return edge, edge
