"""Preprocess images: resize each one to uint8 pixels, then normalize a batch at a time.

A library's transform is split into these two steps, so that only uint8 pixels wait in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from indexmill.storage.errors import InputError

ResizeImage = Callable[[Image.Image], np.ndarray]
Size = tuple[int, int]


class ImagePreprocessor:
    """How to preprocess images for a model.

    Args:
        resize_image: Maps an RGB image to uint8 (height, width, 3).
        mean: Per channel, of values from 0 to 1.
        std: Per channel, of values from 0 to 1.
        decode_size: The width and height that a decoded image must cover; None where every pixel may count.
    """

    def __init__(self, resize_image: ResizeImage, mean: Sequence[float], std: Sequence[float], decode_size: Size | None = None) -> None:
        self.resize_image, self.decode_size = resize_image, decode_size
        self._scaled_mean = 255 * torch.tensor(mean, dtype=torch.float32)
        self._inverse_std = 1 / (255 * torch.tensor(std, dtype=torch.float32))

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute (value / 255 - mean) / std, within 1e-6 of torchvision's ToTensor and Normalize.

        Args:
            pixels: uint8 (n, height, width, 3).

        Returns:
            float32 (n, 3, height, width), channels last in memory.
        """
        width = pixels.shape[2]
        # Whole lines at once: over the three channels alone, CPUs cannot use their wide registers.
        lines = pixels.reshape(-1, width * 3).float()
        lines.sub_(self._scaled_mean.to(pixels.device).repeat(width)).mul_(self._inverse_std.to(pixels.device).repeat(width))
        return lines.view(pixels.shape).permute(0, 3, 1, 2)


def resize_pixels(pixels: np.ndarray, height: int, width: int, mode: str) -> torch.Tensor:
    """Resize with antialiasing, like Pillow but in a third of the time.

    On photographs, about 4 in 1,000 values differ from Pillow's, by 1 or 2 of 255; cosines stay above 0.9999.

    Args:
        pixels: uint8 (any, any, 3).
        height: Of the result.
        width: Of the result.
        mode: `bicubic` or `bilinear`.

    Returns:
        uint8 (height, width, 3).
    """
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, (height, width), mode=mode, antialias=True)[0].permute(1, 2, 0)


INTERPOLATION_MODES = {InterpolationMode.BICUBIC: "bicubic", InterpolationMode.BILINEAR: "bilinear"}


def build_preprocessor(transform: Any) -> ImagePreprocessor:
    """Build the preprocessor that is equivalent to a library's transform.

    Raises:
        InputError: The transform does not end in ToTensor and Normalize.
    """
    *steps, to_tensor_step, normalize_step = getattr(transform, "transforms", (None, None))
    if not isinstance(normalize_step, transforms.Normalize) or type(to_tensor_step).__name__ not in ("ToTensor", "MaybeToTensor"):
        raise InputError(
            "unsupported image preprocessing",
            where="encoder.model",
            expected="a transform that ends in ToTensor and Normalize",
            got=" ".join(str(transform).split())[:300],
            next_step="choose another architecture",
        )
    steps = [step for step in steps if type(step).__name__ != "MaybeConvertMode"]  # images are RGB already
    resize_image, decode_size = _build_resize(steps)
    return ImagePreprocessor(resize_image, np.asarray(normalize_step.mean).tolist(), np.asarray(normalize_step.std).tolist(), decode_size)


def _build_resize(steps: list[Any]) -> tuple[ResizeImage, Size | None]:
    """Combine the steps into a function, with its decode size: a fast one for usual steps, else the library's."""
    if steps and isinstance(steps[0], transforms.Resize) and steps[0].interpolation in INTERPOLATION_MODES and steps[0].max_size is None:
        if len(steps) == 1 and not isinstance(steps[0].size, int) and len(steps[0].size) == 2:
            edge = max(steps[0].size)
            return _ResizeExact(steps[0]), (edge, edge)
        if len(steps) == 2 and isinstance(steps[1], transforms.CenterCrop) and _get_short_edge(steps[0]) >= max(steps[1].size):
            edge = _get_short_edge(steps[0])
            return _ResizeAndCenterCrop(steps[0], steps[1]), (edge, edge)
    return (lambda image: np.asarray(transforms.Compose(steps)(image))), None


def _get_short_edge(resize: transforms.Resize) -> int:
    """Return the length that the shorter edge is resized to; 0 if both are given."""
    sizes = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    return int(sizes[0]) if len(sizes) == 1 else 0


class _ResizeExact:
    """torchvision's Resize to a height and a width."""

    def __init__(self, resize: transforms.Resize) -> None:
        self._height, self._width = resize.size
        self._mode = INTERPOLATION_MODES[resize.interpolation]

    def __call__(self, image: Image.Image) -> np.ndarray:
        return np.ascontiguousarray(resize_pixels(np.array(image), self._height, self._width, self._mode).numpy())


class _ResizeAndCenterCrop:
    """torchvision's Resize of the shorter edge, followed by CenterCrop."""

    def __init__(self, resize: transforms.Resize, crop: transforms.CenterCrop) -> None:
        self._short_edge = _get_short_edge(resize)
        self._height, self._width = crop.size
        self._mode = INTERPOLATION_MODES[resize.interpolation]

    def __call__(self, image: Image.Image) -> np.ndarray:
        short_edge = min(image.size)
        width, height = (int(self._short_edge * edge / short_edge) for edge in image.size)
        top, left = round((height - self._height) / 2), round((width - self._width) / 2)
        pixels = resize_pixels(np.array(image), height, width, self._mode)
        return np.ascontiguousarray(pixels[top : top + self._height, left : left + self._width].numpy())
