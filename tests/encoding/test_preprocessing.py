"""Images are preprocessed as the libraries do it, only faster."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from indexmill.storage.errors import InputError
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor, build_preprocessor, resize_pixels
from indexmill.tasks.validation.image_reader import UNLIMITED, ImageLimits, UnreadableImage, read_image

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth areas and sharp edges, as in a photograph."""
    random = np.random.default_rng(seed)
    smooth = Image.fromarray(random.integers(0, 255, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(smooth)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 255, 3)
    return Image.fromarray(pixels)


def make_transform(*steps: Any) -> transforms.Compose:
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


@pytest.mark.parametrize("crop", [slice(None), slice(10, 90)])
def test_resized_pixels_are_not_brought_together_again(crop: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch answers with the channels of a pixel side by side, as the result has them: copying would take longer than resizing."""
    answers, interpolate = list[torch.Tensor](), torch.nn.functional.interpolate

    def remember(*arguments: Any, **options: Any) -> torch.Tensor:
        answers.append(interpolate(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr(torch.nn.functional, "interpolate", remember)
    resized = resize_pixels(np.array(make_image(120, 100, 0))[crop, crop], 32, 48, "bicubic")
    assert resized.shape == (32, 48, 3)
    assert np.shares_memory(resized, answers[0].numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_format_of_normalized_pixels(dtype: torch.dtype) -> None:
    """Computed in float32, then rounded."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8))
    preprocessor = ImagePreprocessor(np.asarray, MEAN, STD)
    normalized = preprocessor.normalize(pixels, dtype)
    assert normalized.dtype == dtype
    assert torch.equal(normalized, preprocessor.normalize(pixels).to(dtype))
    assert preprocessor.normalize(pixels[:0], dtype).shape == (0, 3, 8, 12)


@pytest.mark.parametrize("std", [STD, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225)])
def test_a_batch_is_normalized_as_torchvision_normalizes_each_image(std: tuple[float, ...]) -> None:
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
@example("bicubic 224, 224 x 160", 225, 451, 7)  # one value differs by 3
@given(st.sampled_from(sorted(STEPS)), st.integers(40, 500), st.integers(40, 500), st.integers(0, 99))
def test_pixels_are_close_to_the_librarys(name: str, width: int, height: int, seed: int) -> None:
    """Any shape: hardly a value differs by more than 2 of 255, and few values differ at all when an image is downscaled.

    Both libraries round between the two directions, and bicubic weights, whose absolute values add up to 1.3, carry that on:
    a difference of 1 becomes at most 3.
    A result of 32 x 48 has so few values that many may lie at the edge of rounding.
    """
    image = make_image(width, height, seed)
    ours = build_preprocessor(make_transform(*STEPS[name])).resize_image(image).astype(int)
    theirs = np.asarray(transforms.Compose(STEPS[name])(image)).astype(int)
    assert ours.shape == theirs.shape
    differences = np.abs(ours - theirs)
    assert differences.max() <= 3
    assert (differences > 2).mean() < 1e-4
    assert (ours != theirs).mean() < (0.02 if min(width, height) > 256 and name != "squashed" else 0.3)


@pytest.mark.parametrize(
    "transform",
    [
        make_transform(transforms.Resize(64, InterpolationMode.NEAREST), transforms.CenterCrop(32)),
        make_transform(transforms.Resize(32, InterpolationMode.BICUBIC), transforms.CenterCrop(64)),
        make_transform(transforms.Resize(32, InterpolationMode.BICUBIC, max_size=40), transforms.CenterCrop(16)),
        create_transform((3, 32, 32), crop_mode="border", crop_pct=0.9),
    ],
)
def test_rare_transforms_use_the_librarys_own_steps(transform: Any) -> None:
    """The pixels are exactly equal."""
    image, preprocessor = make_image(90, 61), build_preprocessor(transform)
    ours = preprocessor.normalize(torch.from_numpy(preprocessor.resize_image(image)[None].copy()))[0]
    assert (ours - transform(image)).abs().max() <= 1e-6


def encode_image(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_lower_resolution(orientation: int) -> None:
    """At least twice the needed size, rotated by its EXIF tag, and less than 1 of 255 off on average."""
    content = encode_image(make_image(900, 700), quality=90, exif=make_exif(orientation))
    preprocessor = build_preprocessor(make_transform(transforms.Resize(100, InterpolationMode.BICUBIC), transforms.CenterCrop(100)))
    assert preprocessor.decode_size == (100, 100)
    full, reduced = read_image(content, UNLIMITED), read_image(content, UNLIMITED, (100, 100))
    assert 200 <= min(reduced.size) <= min(full.size) / 2
    assert (reduced.width > reduced.height) == (full.width > full.height) == (orientation == 1)
    assert np.abs(preprocessor.resize_image(full).astype(int) - preprocessor.resize_image(reduced)).mean() < 1


def test_other_images_are_decoded_in_full() -> None:
    """A JPEG at most twice as large, and any PNG. Limits apply to the full size."""
    image = make_image(390, 300)
    assert read_image(encode_image(image), UNLIMITED, (224, 224)).size == (390, 300)
    assert read_image(encode_image(make_image(900, 700), "PNG"), UNLIMITED, (100, 100)).size == (900, 700)
    with pytest.raises(UnreadableImage, match="900 x 700"):
        read_image(encode_image(make_image(900, 700)), ImageLimits(max_pixels=600_000), (100, 100))


def make_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def test_an_unknown_transform_is_refused() -> None:
    """It is not guessed."""
    with pytest.raises(InputError, match="unsupported image preprocessing"):
        build_preprocessor(transforms.Compose([transforms.ToTensor(), transforms.RandomErasing()]))
