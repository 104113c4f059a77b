"""Every kind of image file is decoded correctly, or refused with the right reason."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter

import numpy as np
import pytest
from broken_files import list_broken_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from sample_images import Kind, draw_scene, encode
from valid_files import list_valid_files

from indexmill.tasks.validation.image_reader import UNLIMITED, ImageLimits, UnreadableImage, convert_to_rgb, read_image

LIMITS = ImageLimits(max_pixels=10_000_000, min_side=2, max_aspect_ratio=50)
KINDS = [*list_valid_files(), *list_broken_files()]
VALID = [
    encode(draw_scene(), "JPEG"),
    encode(draw_scene(), "JPEG", progressive=True),
    encode(draw_scene(), "PNG"),
    encode(draw_scene().quantize(64), "GIF", save_all=True, append_images=[draw_scene().convert("L")]),
    encode(draw_scene(), "WEBP"),
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.reason], ids=lambda kind: kind.name)
def test_a_readable_image_is_decoded_correctly(kind: Kind) -> None:
    """Size and pixels are those of the picture in the file."""
    image, expected = read_image(kind.content, LIMITS), kind.picture
    assert expected is not None
    assert image.mode == "RGB" and image.size == expected.size
    difference = np.abs(np.asarray(image, float) - np.asarray(expected.convert("RGB"), float)).mean()
    assert difference <= kind.tolerance


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.reason], ids=lambda kind: kind.name)
def test_an_unreadable_image_has_a_reason(kind: Kind) -> None:
    """The reason code is the expected one, and the message is not empty."""
    with pytest.raises(UnreadableImage) as raised:
        read_image(kind.content, LIMITS)
    assert raised.value.reason == kind.reason and str(raised.value)


def test_the_kinds_are_many_and_distinct() -> None:
    """No two kinds share a name or their bytes, and every reason occurs."""
    assert len({kind.name for kind in KINDS}) == len(KINDS) == len({kind.content for kind in KINDS}) > 150
    reasons = Counter(kind.reason for kind in KINDS)
    assert set(reasons) == {"", "empty", "not_an_image", "unsupported", "damaged", "too_large", "too_small", "odd_shape"}


def test_decoding_prints_and_warns_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """For every kind of file."""
    with warnings.catch_warnings(record=True) as caught_warnings:
        for kind in KINDS:
            try:
                read_image(kind.content, LIMITS)
            except UnreadableImage:
                continue
    assert not caught_warnings and capfd.readouterr() == ("", "")


def test_a_palette_with_alpha_is_composed_on_white() -> None:
    """Mode PA, which a few decoders return, is transparent where its alpha is zero."""
    image = Image.new("L", (4, 4), 7).convert("PA")
    image.putalpha(Image.new("L", (4, 4), 0))
    assert convert_to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_without_limits_every_size_is_read() -> None:
    """For images that validation has checked already."""
    assert read_image(encode(Image.new("L", (1, 300)), "PNG"), UNLIMITED).size == (1, 300)


def test_limits_apply_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image beyond the limits is refused by its header alone."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match="the limit of 100"):
        read_image(encode(draw_scene(), "JPEG"), ImageLimits(max_pixels=100))


@st.composite
def mutate_files(draw: st.DrawFn) -> bytes:
    """Draw a valid file truncated, or with some bytes flipped or overwritten."""
    content = bytearray(draw(st.sampled_from(VALID)))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    for _ in range(draw(st.integers(0, 4)) if content else 0):
        at = draw(st.integers(0, len(content) - 1))
        patch = draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(bytes([content[at] ^ 0xFF]))))
        content[at : at + len(patch)] = patch
    return bytes(content)


@given(mutate_files())
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_an_image_or_a_reason(content: bytes) -> None:
    """However a file is broken, it decodes as RGB or raises UnreadableImage, and nothing else."""
    check_outcome(content)


@pytest.mark.slow
@given(mutate_files())
@settings(max_examples=1500, deadline=None)
def test_many_more_bytes_give_an_image_or_a_reason(content: bytes) -> None:
    """The same with more examples."""
    check_outcome(content)


def check_outcome(content: bytes) -> None:
    try:
        assert read_image(content, LIMITS).mode == "RGB"
    except UnreadableImage as error:
        assert error.reason and str(error)


def test_pixels_are_read_whatever_a_png_says_beside_them() -> None:
    """Profiles and texts above Pillow's limits, and wrong checksums in them, do not make a picture damaged."""
    image = Image.linear_gradient("L").convert("RGB")
    large = PngImagePlugin.PngInfo()
    large.add_itxt("workflow", "{" + "x" * 1_200_000 + "}", zip=True)
    many = PngImagePlugin.PngInfo()
    for number in range(80):
        many.add_itxt(f"text {number}", "x" * 1_000_000, zip=True)
    small = PngImagePlugin.PngInfo()
    small.add_text("comment", "a comment")
    contents = []
    for options in ({"icc_profile": os.urandom(1_200_000)}, {"pnginfo": large}, {"pnginfo": many}, {"pnginfo": small}):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **options)
        contents.append(buffer.getvalue())
    contents[-1] = contents[-1].replace(b"a comment", b"b comment")
    for content in contents:
        assert read_image(content, UNLIMITED).tobytes() == image.tobytes()
