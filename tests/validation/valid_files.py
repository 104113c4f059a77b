"""Image files that are read, plain and odd, each with the picture that it shows."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps
from sample_images import HEIGHT, WIDTH, Kind, chunk, interlaced, lines, png, saved, scene, with_exif, without_segment


def valid_files() -> list[Kind]:
    """All of them, each by a name of its own."""
    return [*_plain(), *_turned(), *_transparent(), *_moving(), *_deep(), *_tiff(), *_odd()]


def _plain() -> Iterator[Kind]:
    image, grey = scene(), scene().convert("L")
    jpeg = saved(image, "JPEG", quality=95, subsampling=0)
    yield Kind("jpeg", jpeg, image, 3)
    yield Kind("jpeg_progressive", saved(image, "JPEG", quality=95, subsampling=0, progressive=True), image, 3)
    yield Kind("jpeg_grey", saved(grey, "JPEG", quality=95), grey, 3)
    yield Kind("jpeg_profile", saved(image, "JPEG", quality=95, subsampling=0, icc_profile=b"\0" * 200), image, 3)
    cmyk = saved(image.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    yield Kind("jpeg_cmyk_adobe", cmyk, image, 4)
    upright_ink = saved(ImageChops.invert(image.convert("CMYK")), "JPEG", quality=95, subsampling=0)
    yield Kind("jpeg_cmyk_plain", without_segment(upright_ink, 0xEE), image, 4)
    yield Kind("jpeg_of_many_pictures", saved(image, "MPO", save_all=True, append_images=[grey], quality=95), image, 8)
    yield Kind("png", saved(image, "PNG"), image)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Kind("png_profile", saved(image, "PNG", icc_profile=srgb), image)
    yield Kind("png_interlaced", interlaced(image), image)
    yield Kind("png_palette", saved(image.quantize(256), "PNG"), image.quantize(256))
    yield Kind("png_grey", saved(grey, "PNG"), grey)
    yield Kind("png_one_bit", saved(grey.convert("1"), "PNG"), grey.convert("1"))
    yield Kind("webp", saved(image, "WEBP", quality=95), image, 8)
    yield Kind("webp_lossless", saved(image, "WEBP", lossless=True), image)
    yield Kind("gif", saved(image.quantize(64), "GIF"), image.quantize(64))
    yield Kind("bmp", saved(image, "BMP"), image)
    yield Kind("bmp_palette", saved(image.quantize(64), "BMP"), image.quantize(64))
    yield Kind("bmp_one_bit", saved(grey.convert("1"), "BMP"), grey.convert("1"))


def _turned() -> Iterator[Kind]:
    for orientation in range(1, 9):
        yield Kind(f"jpeg_turned_{orientation}", with_exif(scene(), "JPEG", orientation), scene(), 3)
        yield Kind(f"png_turned_{orientation}", with_exif(scene(), "PNG", orientation), scene())
    yield Kind("webp_turned", with_exif(scene(), "WEBP", 6), scene(), 12)
    yield Kind("tiff_turned", with_exif(scene(), "TIFF", 6), scene())
    yield Kind("turned_no_known_way", with_exif(scene(), "PNG", 9), scene())
    broken = b"Exif\0\0MM\0*\xff\xff\xff\xf0garbage"
    yield Kind("jpeg_broken_exif", saved(scene(), "JPEG", quality=95, subsampling=0, exif=broken), scene(), 3)


def _transparent() -> Iterator[Kind]:
    """The right half half transparent or wholly, so that it is seen on white."""
    image, half = scene(), Image.new("L", (WIDTH, HEIGHT), 255)
    half.paste(128, (WIDTH // 2, 0, WIDTH, HEIGHT))
    for name, base in (("rgba", image), ("grey_alpha", image.convert("L"))):
        layered = base.copy()
        layered.putalpha(half)
        shown = Image.composite(base.convert("RGB"), Image.new("RGB", base.size, "white"), half)
        yield Kind(f"png_{name}", saved(layered, "PNG"), shown, 0.5)
        yield Kind(f"tiff_{name}", saved(layered, "TIFF"), shown, 0.5)
        yield Kind(f"webp_{name}", saved(layered.convert("RGBA"), "WEBP", lossless=True), shown, 0.5)
    deep = np.dstack([np.asarray(image, np.uint16) * 257, np.asarray(half, np.uint16) * 257])
    shown = Image.composite(image, Image.new("RGB", image.size, "white"), half)
    yield Kind("png_sixteen_bit_rgba", png(image.size, 16, 6, lines(deep)), shown, 0.5)

    indices = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    plte = chunk(b"PLTE", palette.tobytes())
    for name, alphas in (("one", [255, 0]), ("many", [255, 0, 51])):
        opacity = np.array([*alphas, 255][:3])[:, None] / 255
        colours = np.rint(palette * opacity + 255 * (1 - opacity)).astype(np.uint8)
        content = png((WIDTH, HEIGHT), 8, 3, lines(indices), plte, chunk(b"tRNS", bytes(alphas)))
        yield Kind(f"png_palette_{name}_transparent", content, Image.fromarray(colours[indices]), 0.5)
    colours = np.array([[200, 0, 0], [255, 255, 255], [0, 0, 200]], np.uint8)
    gif = Image.fromarray(indices).convert("P")
    gif.putpalette(palette.tobytes())
    yield Kind("gif_transparent", saved(gif, "GIF", transparency=1), Image.fromarray(colours[indices]))

    yield from _key_coloured(indices)


def _key_coloured(indices: np.ndarray) -> Iterator[Kind]:
    """PNGs of which one grey or colour is transparent, given in the file's own depth."""
    size = (WIDTH, HEIGHT)
    for depth in (2, 4, 8, 16):
        samples = (indices.astype(np.uint16) * ((1 << depth) // 4)) if depth == 16 else indices
        packed = samples if depth >= 8 else np.packbits(np.unpackbits(samples[..., None], axis=2)[..., 8 - depth :].reshape(HEIGHT, -1), 1)
        shades = np.rint(samples * (255 / ((1 << depth) - 1)))
        shades[indices == 1] = 255
        key = chunk(b"tRNS", struct.pack(">H", int(samples[indices == 1][0])))
        shown = Image.fromarray(shades.astype(np.uint8))
        yield Kind(f"png_{depth}_bit_grey_key", png(size, depth, 0, lines(packed), key), shown, 0.5)
    colours = np.array([[1, 2, 3], [9, 8, 7], [250, 251, 252]], np.uint8)[indices]
    shown_pixels = colours.copy()
    shown_pixels[indices == 1] = 255
    shown = Image.fromarray(shown_pixels)
    yield Kind("png_8_bit_colour_key", png(size, 8, 2, lines(colours), chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7))), shown)
    key = chunk(b"tRNS", struct.pack(">HHH", *(256 * value + 77 for value in (9, 8, 7))))
    yield Kind("png_16_bit_colour_key", png(size, 16, 2, lines(colours.astype(np.uint16) * 256 + 77), key), shown)


def _moving() -> Iterator[Kind]:
    first, later = scene().quantize(64), ImageOps.invert(scene()).quantize(64)
    moving: dict[str, Any] = {"save_all": True, "append_images": [later, first], "duration": 40}
    gif = saved(first, "GIF", **moving)
    yield Kind("gif_animated", gif, first)
    yield Kind("gif_animated_cut_later", gif[: len(gif) * 5 // 6], first)
    rgb = scene()
    moving["append_images"] = [ImageOps.invert(rgb), rgb]
    yield Kind("webp_animated", saved(rgb, "WEBP", lossless=True, **moving), rgb)
    yield Kind("png_animated", saved(rgb, "PNG", **moving), rgb)


def _deep() -> Iterator[Kind]:
    size, ramp = (WIDTH, HEIGHT), np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    shown = Image.fromarray(np.rint(ramp * 255).astype(np.uint8))
    deep = np.rint(ramp * 65535).astype(np.uint16)
    yield Kind("png_16_bit_grey", png(size, 16, 0, lines(deep)), shown, 0.5)
    yield Kind("png_16_bit_colour", png(size, 16, 2, lines(np.dstack([deep] * 3))), shown, 0.6)
    yield Kind("png_16_bit_grey_alpha", png(size, 16, 4, lines(np.dstack([deep, np.full_like(deep, 65535)]))), shown, 0.6)
    for depth in (2, 4):
        levels = np.rint(ramp * ((1 << depth) - 1)).astype(np.uint8)
        packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - depth :].reshape(HEIGHT, -1), 1)
        coarse = Image.fromarray((levels * (255 // ((1 << depth) - 1))).astype(np.uint8))
        yield Kind(f"png_{depth}_bit_grey", png(size, depth, 0, lines(packed)), coarse)
    sixteen = Image.fromarray(deep)
    yield Kind("tiff_16_bit", saved(sixteen, "TIFF"), shown, 0.5)
    yield Kind("tiff_16_bit_lzw", saved(sixteen, "TIFF", compression="tiff_lzw"), shown, 0.5)
    white_first = saved(Image.fromarray(65535 - deep), "TIFF", tiffinfo={262: 0})
    yield Kind("tiff_16_bit_zero_is_white", white_first, shown, 0.5)
    for name, values in (("unit", ramp), ("bytes", ramp * 255), ("shorts", ramp * 65535), ("any", ramp * 9e6 - 1e6)):
        yield Kind(f"tiff_float_{name}", saved(Image.fromarray(values.astype(np.float32)), "TIFF"), shown, 0.5)
    holed = ramp.astype(np.float32)
    holed[0, 0], holed[-1, -1] = np.nan, np.inf
    yield Kind("tiff_float_not_finite", saved(Image.fromarray(holed), "TIFF"), shown, 0.5)
    yield Kind("tiff_float_all_alike", saved(Image.new("F", size, -7), "TIFF"), Image.new("L", size, 0))
    yield Kind("tiff_32_bit", saved(Image.fromarray((ramp * 65535).astype(np.int32)), "TIFF"), shown, 0.6)
    yield Kind("tiff_32_bit_wide", saved(Image.fromarray((ramp * 2e9 - 1e9).astype(np.int32)), "TIFF"), shown, 0.6)


def _tiff() -> Iterator[Kind]:
    image = scene()
    lab = ImageCms.applyTransform(
        image, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    )
    assert lab is not None
    yield Kind("tiff", saved(image, "TIFF"), image)
    yield Kind("tiff_deflate", saved(image, "TIFF", compression="tiff_adobe_deflate"), image)
    yield Kind("tiff_jpeg", saved(image, "TIFF", compression="jpeg", quality=95), image, 8)
    yield Kind("tiff_lab", saved(lab, "TIFF"), image, 4)
    yield Kind("tiff_ycbcr", saved(image.convert("YCbCr"), "TIFF"), image, 3)
    yield Kind("tiff_cmyk", saved(image.convert("CMYK"), "TIFF"), image)
    yield Kind("tiff_one_bit", saved(image.convert("1"), "TIFF", compression="group4"), image.convert("1"))
    yield Kind("tiff_palette", saved(image.quantize(64), "TIFF"), image.quantize(64))
    yield Kind("tiff_of_many_pages", saved(image, "TIFF", save_all=True, append_images=[ImageOps.invert(image)]), image)


def _odd() -> Iterator[Kind]:
    image = scene()
    jpeg, content = saved(image, "JPEG", quality=95, subsampling=0), saved(image, "PNG")
    yield Kind("jpeg_more_behind_it", jpeg + b"\0" * 99, image, 3)
    yield Kind("jpeg_without_end_mark", jpeg[:-2], image, 3)
    yield Kind("png_more_behind_it", content + b"<html>", image)
    yield Kind("png_two_by_two", saved(scene(2, 2), "PNG"), scene(2, 2))
    yield Kind("png_as_long_as_allowed", saved(scene(100, 2), "PNG"), scene(100, 2))
