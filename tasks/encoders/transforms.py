"""A library's transform of one image, taken apart: what sizes the picture, and what brings its pixels to the model's range."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from indexmill.storage.errors import InputError
from indexmill.tasks.encoders.pictures import Preparation, Sized, resized

MODES = {InterpolationMode.BICUBIC: "bicubic", InterpolationMode.BILINEAR: "bilinear"}


def preparation(transform: Any) -> Preparation:
    """How the model wants its images. Raises InputError for one that does not end in ToTensor and Normalize."""
    *steps, scaled, normalised = getattr(transform, "transforms", (None, None))
    if not isinstance(normalised, transforms.Normalize) or type(scaled).__name__ not in ("ToTensor", "MaybeToTensor"):
        raise InputError(
            "this model prepares its images in a way that is not known here",
            where="encoder.model",
            got=" ".join(str(transform).split())[:300],
            next_step="choose another architecture",
        )
    # Pictures are RGB already.
    steps = [step for step in steps if type(step).__name__ != "MaybeConvertMode"]
    sized = _sized(steps)
    wants = getattr(sized, "wants", None)
    return Preparation(sized, np.asarray(normalised.mean).tolist(), np.asarray(normalised.std).tolist(), wants)


def _sized(steps: list[Any]) -> Sized:
    """The steps as one function: what nearly every model asks for is done faster, the rest by the library's steps."""
    if steps and isinstance(steps[0], transforms.Resize) and steps[0].interpolation in MODES and steps[0].max_size is None:
        if len(steps) == 1 and not isinstance(steps[0].size, int) and len(steps[0].size) == 2:
            return _Squashed(steps[0])
        if len(steps) == 2 and isinstance(steps[1], transforms.CenterCrop) and _short_side(steps[0]) >= max(steps[1].size):
            return _Cropped(steps[0], steps[1])
    return lambda image: np.asarray(transforms.Compose(steps)(image))


def _short_side(resize: transforms.Resize) -> int:
    """The length that the shorter side gets; 0 where both are given."""
    sizes = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    return int(sizes[0]) if len(sizes) == 1 else 0


class _Squashed:
    """torchvision's Resize to a height and a width."""

    def __init__(self, resize: transforms.Resize) -> None:
        self._height, self._width = resize.size
        self.wants = max(resize.size)
        self._mode = MODES[resize.interpolation]

    def __call__(self, image: Image.Image) -> np.ndarray:
        return np.ascontiguousarray(resized(np.array(image), self._height, self._width, self._mode).numpy())


class _Cropped:
    """torchvision's Resize of the shorter side, and then CenterCrop."""

    def __init__(self, resize: transforms.Resize, crop: transforms.CenterCrop) -> None:
        self._short, (self._height, self._width), self._mode = _short_side(resize), crop.size, MODES[resize.interpolation]
        self.wants = self._short

    def __call__(self, image: Image.Image) -> np.ndarray:
        short = min(image.size)
        width, height = (int(self._short * side / short) for side in image.size)
        top, left = round((height - self._height) / 2), round((width - self._width) / 2)
        pixels = resized(np.array(image), height, width, self._mode)
        return np.ascontiguousarray(pixels[top : top + self._height, left : left + self._width].numpy())
