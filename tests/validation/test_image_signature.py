"""Images that differ to the eye are groups of their own; the same picture in another file stays in its group."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from indexmill.tasks.validation.image_reader import UNLIMITED, read_signature

COLORS = ["#c0392b", "#2455c0", "#1e8b3a", "#d9822b", "#7d3fb2", "#1f8a8a", "#101010", "#1a2a5a", "#c8c8c8"]


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def get_group(image: Image.Image, form: str = "PNG", **options: object) -> str:
    return read_signature(encode(image, form, **options), UNLIMITED).group


def draw_shape(
    seed: int, color: str = "black", mode: str = "RGB", background: str | tuple[int, ...] = "white", size: int = 128
) -> Image.Image:
    """A random polygon on a plain background."""
    image = Image.new(mode, (size, size), background)
    points = [tuple(map(int, point)) for point in np.random.default_rng(seed).integers(size // 10, size - size // 10, (5, 2))]
    ImageDraw.Draw(image).polygon(points, fill=color)
    return image


def draw_photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def test_each_color_of_a_product_is_a_group() -> None:
    """Twelve shapes in nine colors are 108 groups, and their hashes are too far apart to count as leaks."""
    signatures = [[read_signature(encode(draw_shape(seed, color)), UNLIMITED) for color in COLORS] for seed in range(12)]
    assert len({signature.group for product in signatures for signature in product}) == 108
    hashes = [int(signature.perceptual_hash, 16) for signature in signatures[0]]
    assert min((first ^ second).bit_count() for row, first in enumerate(hashes) for second in hashes[:row]) > 12


def test_plain_pictures_are_grouped_by_their_color() -> None:
    """Swatches of different colors differ, and a swatch of another size or format is the same one."""
    swatches = [Image.new("RGB", (64, 64), color) for color in [*COLORS, "white", "black", "#c0392d"]]
    assert len({get_group(swatch) for swatch in swatches}) == 12
    for swatch in swatches:
        assert {get_group(swatch.resize((200, 90))), get_group(swatch, "BMP"), get_group(swatch, "WEBP", lossless=True)} == {
            get_group(swatch)
        }


def test_shapes_on_transparency_are_seen() -> None:
    """White icons that vanish on white are as many groups as icons, and differ from an empty picture."""
    icons = [draw_shape(seed, "white", "RGBA", (0, 0, 0, 0)) for seed in range(12)]
    empty = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    assert len({get_group(icon) for icon in [*icons, empty]}) == 13
    for icon in icons:
        assert get_group(icon) == get_group(icon, "WEBP", lossless=True, exact=True)
    opaque = draw_shape(1, "red")
    assert get_group(opaque) == get_group(opaque.convert("RGBA"))


def test_turned_and_mirrored_pictures_are_groups_of_their_own() -> None:
    """Unless EXIF turns them back."""
    photo = draw_photo(3)
    turned = [photo, *(photo.transpose(turn) for turn in Image.Transpose if turn in (0, 1, 2, 3, 4))]
    assert len({get_group(image) for image in turned}) == 6
    exif = Image.Exif()
    exif[0x0112] = 6
    assert get_group(photo.transpose(Image.Transpose.ROTATE_90), exif=exif) == get_group(photo)


def test_fine_patterns_of_one_mean_color_differ() -> None:
    """Their lowest frequencies say nothing, so only equal files are one group, and no hash is near another."""
    cells = np.indices((256, 256)).sum(0)
    checks, stripes = (np.where(values % 2, 90, 160).astype(np.uint8) for values in (cells, np.indices((256, 256))[0]))
    first, second = (read_signature(encode(Image.fromarray(values)), UNLIMITED) for values in (checks, stripes))
    assert first.group != second.group
    assert (int(first.perceptual_hash, 16) ^ int(second.perceptual_hash, 16)).bit_count() > 64


SAME: dict[str, Callable[[Image.Image], bytes]] = {
    "bmp": lambda image: encode(image, "BMP"),
    "tiff": lambda image: encode(image, "TIFF", compression="tiff_lzw"),
    "lossless webp": lambda image: encode(image, "WEBP", lossless=True),
    "metadata": lambda image: encode(image, pnginfo=_make_info(), icc_profile=b"profile", dpi=(300, 300)),
    "compression": lambda image: encode(image, compress_level=1),
}


def _make_info() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "{}")
    return info


@pytest.mark.parametrize("kind", SAME)
def test_the_same_pixels_in_another_file_are_one_group(kind: str) -> None:
    for image in [draw_photo(0), draw_photo(1, (50, 70)), draw_shape(2, "red"), draw_shape(3, "white", "RGB", "black")]:
        assert read_signature(SAME[kind](image), UNLIMITED) == read_signature(encode(image), UNLIMITED)


@pytest.mark.slow
def test_resized_and_recompressed_photos_mostly_stay_in_their_group() -> None:
    """At least five of six: a feature may be just at the border of two steps."""
    photos = [draw_photo(seed) for seed in range(40)]
    for change in (
        lambda photo: encode(photo, "JPEG", quality=95),
        lambda photo: encode(photo, "JPEG", quality=75),
        lambda photo: encode(photo.resize((80, 60), Image.Resampling.LANCZOS)),
        lambda photo: encode(photo.resize((320, 240), Image.Resampling.BICUBIC)),
    ):
        assert sum(read_signature(change(photo), UNLIMITED).group == get_group(photo) for photo in photos) >= 34
