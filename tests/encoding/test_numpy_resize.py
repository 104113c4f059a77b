"""Without torch, images get the same pixels as with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from indexmill.tasks.encoding import numpy_resize, preprocessing
from indexmill.tasks.encoding.efficientnet_lite import RESIZE
from indexmill.tasks.encoding.image_resize import resize_image
from tests.encoding.test_preprocessing import STEPS, make_image, make_transform

SIDES = st.integers(1, 300)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["bicubic", "bilinear"]), st.integers(0, 99), st.booleans())
def test_pixels_equal_torchs(old_height: int, old_width: int, height: int, width: int, mode: str, seed: int, extreme: bool) -> None:
    """Any sizes, larger and smaller, of noise and of black and white, whose sums leave the range of a pixel."""
    pixels = np.random.default_rng(seed).integers(0, 256, (old_height, old_width, 3)).astype(np.uint8)
    if extreme:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    ours, theirs = (module.resize_pixels(pixels, height, width, mode) for module in (numpy_resize, preprocessing))
    assert ours.dtype == theirs.dtype == np.uint8
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", [*sorted(STEPS), "center square"])
@pytest.mark.parametrize("size", [(500, 375), (61, 90), (224, 224), (1, 70), pytest.param((1, 700), marks=pytest.mark.slow)])
def test_images_equal_the_preprocessors(name: str, size: tuple[int, int]) -> None:
    """Each way to resize and crop, portrait, landscape, square and a line."""
    image = make_image(*size) if min(size) > 1 else Image.new("RGB", size, (200, 3, 90))
    steps = STEPS.get(name)
    preprocessor = preprocessing.build_preprocessor(make_transform(*steps)) if steps else preprocessing.ImagePreprocessor(RESIZE, [0], [1])
    assert preprocessor.resize is not None
    ours = resize_image(image, preprocessor.resize, numpy_resize.resize_pixels)
    assert ours.flags.c_contiguous
    assert ours.shape == (preprocessor.resize.height, preprocessor.resize.width, 3)
    assert np.array_equal(ours, preprocessor.resize_image(image))


def test_a_rare_transform_is_not_described() -> None:
    """Only the library can apply it, so the model is not exported."""
    transform = make_transform(transforms.Resize(64, InterpolationMode.NEAREST), transforms.CenterCrop(32))
    assert preprocessing.build_preprocessor(transform).resize is None


def test_two_pixels_become_one() -> None:
    """Worked by hand: both have half of the weight, and a half is rounded up."""
    pixels = np.array([[[0, 10, 255], [1, 20, 255]]], np.uint8)
    assert numpy_resize.resize_pixels(pixels, 1, 1, "bilinear").tolist() == [[[1, 15, 255]]]
