"""Pictures are prepared as the libraries prepare them, only faster."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from indexmill.storage.errors import InputError
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor, build_preprocessor
from indexmill.tasks.validation.image_reader import UNLIMITED, ImageLimits, UnreadableImage, read_image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft shapes and sharp edges, as in a photograph."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 255, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(soft)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 255, 3)
    return Image.fromarray(pixels)


def library(*steps: Any) -> transforms.Compose:
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


@pytest.mark.parametrize("std", [STD, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225)])
def test_a_batch_is_normalised_as_torchvision_normalises_each_image(std: tuple[float, ...]) -> None:
    """Every value of every channel within 1e-6, and channels last in memory."""
    values = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=2)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, std)])(Image.fromarray(values))
    ours = ImagePreprocessor(np.asarray, MEAN, std).normalize(torch.from_numpy(np.stack([values, values])))
    assert ours.shape == (2, 3, 16, 16)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - theirs).abs().max() <= 1e-6


STEPS = {
    "bicubic 256, 224": (transforms.Resize(256, InterpolationMode.BICUBIC), transforms.CenterCrop(224)),
    "bilinear 235, 224": (transforms.Resize(235, InterpolationMode.BILINEAR), transforms.CenterCrop(224)),
    "bicubic 224, 224 x 160": (transforms.Resize(224, InterpolationMode.BICUBIC), transforms.CenterCrop((224, 160))),
    "squashed": (transforms.Resize((32, 48), InterpolationMode.BILINEAR),),
}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(STEPS)), st.integers(40, 500), st.integers(40, 500), st.integers(0, 99))
def test_pixels_are_nearly_the_librarys(name: str, width: int, height: int, seed: int) -> None:
    """Any shape, smaller or larger: no value is off by more than 2 of 255, and few are off at all where the picture is made smaller."""
    image = picture(width, height, seed)
    ours = build_preprocessor(library(*STEPS[name])).resize_image(image).astype(int)
    theirs = np.asarray(transforms.Compose(STEPS[name])(image)).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2
    assert (ours != theirs).mean() < (0.02 if min(width, height) > 256 else 0.3)


@pytest.mark.parametrize(
    "transform",
    [
        library(transforms.Resize(64, InterpolationMode.NEAREST), transforms.CenterCrop(32)),
        library(transforms.Resize(32, InterpolationMode.BICUBIC), transforms.CenterCrop(64)),
        library(transforms.Resize(32, InterpolationMode.BICUBIC, max_size=40), transforms.CenterCrop(16)),
        create_transform((3, 32, 32), crop_mode="border", crop_pct=0.9),
    ],
)
def test_rarer_ways_are_left_to_the_librarys_own_steps(transform: Any) -> None:
    """Exactly its pixels."""
    image, prepared = picture(90, 61), build_preprocessor(transform)
    ours = prepared.normalize(torch.from_numpy(prepared.resize_image(image)[None].copy()))[0]
    assert (ours - transform(image)).abs().max() <= 1e-6


def stored(image: Image.Image, kind: str = "JPEG", **choices: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **choices)
    return content.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_read_at_a_part_of_its_size(orientation: int) -> None:
    """At least twice the size that is wanted, turned as it should be, and less than 1 of 255 off on average."""
    content = stored(picture(900, 700), quality=90, exif=turned(orientation))
    prepared = build_preprocessor(library(transforms.Resize(100, InterpolationMode.BICUBIC), transforms.CenterCrop(100)))
    assert prepared.decode_size == 100
    whole, part = read_image(content, UNLIMITED), read_image(content, UNLIMITED, (100, 100))
    assert 200 <= min(part.size) <= min(whole.size) / 2
    assert (part.width > part.height) == (whole.width > whole.height) == (orientation == 1)
    assert np.abs(prepared.resize_image(whole).astype(int) - prepared.resize_image(part)).mean() < 1


def test_other_pictures_are_read_whole() -> None:
    """A JPEG that is not more than twice as large, and any PNG; and what the limits say is of the whole picture."""
    image = picture(390, 300)
    assert read_image(stored(image), UNLIMITED, (224, 224)).size == (390, 300)
    assert read_image(stored(picture(900, 700), "PNG"), UNLIMITED, (100, 100)).size == (900, 700)
    with pytest.raises(UnreadableImage, match="900 x 700"):
        read_image(stored(picture(900, 700)), ImageLimits(max_pixels=600_000), (100, 100))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def test_a_preparation_that_is_not_known_is_refused() -> None:
    """Rather than guessed."""
    with pytest.raises(InputError, match="not known here"):
        build_preprocessor(transforms.Compose([transforms.ToTensor(), transforms.RandomErasing()]))
