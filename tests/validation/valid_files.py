"""Readable image files, plain and unusual, each with the picture in it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms, ImageOps
from sample_images import (
    HEIGHT,
    WIDTH,
    Kind,
    draw_scene,
    encode,
    encode_interlaced,
    encode_with_exif,
    make_chunk,
    make_icon,
    make_png,
    make_scan_lines,
    remove_segment,
)

from indexmill.tasks.validation.image_formats import has_heif_decoder


def list_valid_files() -> list[Kind]:
    """List all files, each with its own name."""
    return [*_plain(), *_icons(), *_heif(), *_turned(), *_transparent(), *_moving(), *_deep(), *_tiff(), *_odd()]


def _plain() -> Iterator[Kind]:
    image, gray = draw_scene(), draw_scene().convert("L")
    jpeg = encode(image, "JPEG", quality=95, subsampling=0)
    yield Kind("jpeg", jpeg, image, 3)
    yield Kind("jpeg_progressive", encode(image, "JPEG", quality=95, subsampling=0, progressive=True), image, 3)
    yield Kind("avif", encode(image, "AVIF", quality=95, subsampling="4:4:4"), image, 6)
    yield Kind("jpeg_gray", encode(gray, "JPEG", quality=95), gray, 3)
    yield Kind("jpeg_profile", encode(image, "JPEG", quality=95, subsampling=0, icc_profile=b"\0" * 200), image, 3)
    cmyk = encode(image.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    yield Kind("jpeg_cmyk_adobe", cmyk, image, 4)
    upright_ink = encode(ImageChops.invert(image.convert("CMYK")), "JPEG", quality=95, subsampling=0)
    yield Kind("jpeg_cmyk_plain", remove_segment(upright_ink, 0xEE), image, 4)
    yield Kind("jpeg_of_many_pictures", encode(image, "MPO", save_all=True, append_images=[gray], quality=95), image, 8)
    yield Kind("png", encode(image, "PNG"), image)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Kind("png_profile", encode(image, "PNG", icc_profile=srgb), image)
    yield Kind("png_interlaced", encode_interlaced(image), image)
    yield Kind("png_palette", encode(image.quantize(256), "PNG"), image.quantize(256))
    yield Kind("png_gray", encode(gray, "PNG"), gray)
    yield Kind("png_one_bit", encode(gray.convert("1"), "PNG"), gray.convert("1"))
    yield Kind("webp", encode(image, "WEBP", quality=95), image, 8)
    yield Kind("webp_lossless", encode(image, "WEBP", lossless=True), image)
    yield Kind("gif", encode(image.quantize(64), "GIF"), image.quantize(64))
    yield Kind("jpeg_2000", encode(image, "JPEG2000"), image)
    yield Kind("jpeg_2000_stream", encode(image, "JPEG2000", no_jp2=True), image)
    yield Kind("jpeg_2000_gray", encode(gray, "JPEG2000"), gray)
    yield Kind("avif_of_another_brand", encode(image, "AVIF", quality=95, subsampling="4:4:4").replace(b"ftypavif", b"ftypmif1"), image, 6)
    yield Kind("bmp", encode(image, "BMP"), image)
    yield Kind("bmp_palette", encode(image.quantize(64), "BMP"), image.quantize(64))
    yield Kind("bmp_one_bit", encode(gray.convert("1"), "BMP"), gray.convert("1"))


def _icons() -> Iterator[Kind]:
    """Icons with one picture in two forms, with several sizes, and with several depths of one size."""
    image = draw_scene(64, 64)
    yield Kind("icon", encode(image, "ICO", sizes=[(16, 16), (64, 64)]), image)
    bitmaps = encode(image, "ICO", sizes=[(16, 16), (64, 64)], bitmap_format="bmp")
    yield Kind("icon_of_bitmaps", bitmaps, image)
    few, many = image.quantize(16), image
    yield Kind("icon_of_two_depths", make_icon((64, 64, 4, encode(few, "PNG")), (64, 64, 32, encode(many, "PNG"))), image)
    yield Kind("icon_with_another_size", make_icon((16, 16, 32, encode(image, "PNG"))), image)


def _heif() -> Iterator[Kind]:
    """What phones write, if the decoder is installed: turned by the container, whose orientation in EXIF does not count."""
    if not has_heif_decoder():
        return
    import pillow_heif

    pillow_heif.register_heif_opener()
    image = draw_scene()
    yield Kind("heic", encode(image, "HEIF", quality=95), image, 4)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned.info["exif"] = exif.tobytes()
    yield Kind("heic_turned", encode(turned, "HEIF", quality=95), image, 4)
    deep = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    yield Kind("heic_deep", encode(deep, "HEIF", quality=95), image.convert("L"), 4)


def _turned() -> Iterator[Kind]:
    for orientation in range(1, 9):
        yield Kind(f"jpeg_turned_{orientation}", encode_with_exif(draw_scene(), "JPEG", orientation), draw_scene(), 3)
        yield Kind(f"png_turned_{orientation}", encode_with_exif(draw_scene(), "PNG", orientation), draw_scene())
    yield Kind("webp_turned", encode_with_exif(draw_scene(), "WEBP", 6), draw_scene(), 12)
    yield Kind("tiff_turned", encode_with_exif(draw_scene(), "TIFF", 6), draw_scene())
    yield Kind("turned_no_known_way", encode_with_exif(draw_scene(), "PNG", 9), draw_scene())
    broken = b"Exif\0\0MM\0*\xff\xff\xff\xf0garbage"
    yield Kind("jpeg_broken_exif", encode(draw_scene(), "JPEG", quality=95, subsampling=0, exif=broken), draw_scene(), 3)


def _transparent() -> Iterator[Kind]:
    """Images whose right half is partly or fully transparent, so that it is seen on white."""
    image, half = draw_scene(), Image.new("L", (WIDTH, HEIGHT), 255)
    half.paste(128, (WIDTH // 2, 0, WIDTH, HEIGHT))
    for name, base in (("rgba", image), ("gray_alpha", image.convert("L"))):
        layered = base.copy()
        layered.putalpha(half)
        shown = Image.composite(base.convert("RGB"), Image.new("RGB", base.size, "white"), half)
        yield Kind(f"png_{name}", encode(layered, "PNG"), shown, 0.5)
        yield Kind(f"tiff_{name}", encode(layered, "TIFF"), shown, 0.5)
        yield Kind(f"webp_{name}", encode(layered.convert("RGBA"), "WEBP", lossless=True), shown, 0.5)
    deep = np.dstack([np.asarray(image, np.uint16) * 257, np.asarray(half, np.uint16) * 257])
    shown = Image.composite(image, Image.new("RGB", image.size, "white"), half)
    yield Kind("png_sixteen_bit_rgba", make_png(image.size, 16, 6, make_scan_lines(deep)), shown, 0.5)

    indices = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    plte = make_chunk(b"PLTE", palette.tobytes())
    for name, alphas in (("one", [255, 0]), ("many", [255, 0, 51])):
        opacity = np.array([*alphas, 255][:3])[:, None] / 255
        colors = np.rint(palette * opacity + 255 * (1 - opacity)).astype(np.uint8)
        content = make_png((WIDTH, HEIGHT), 8, 3, make_scan_lines(indices), plte, make_chunk(b"tRNS", bytes(alphas)))
        yield Kind(f"png_palette_{name}_transparent", content, Image.fromarray(colors[indices]), 0.5)
    colors = np.array([[200, 0, 0], [255, 255, 255], [0, 0, 200]], np.uint8)
    gif = Image.fromarray(indices).convert("P")
    gif.putpalette(palette.tobytes())
    yield Kind("gif_transparent", encode(gif, "GIF", transparency=1), Image.fromarray(colors[indices]))

    yield from _key_colored(indices)


def _key_colored(indices: np.ndarray) -> Iterator[Kind]:
    """PNGs with one transparent gray or color, stated in the file's own bit depth."""
    size = (WIDTH, HEIGHT)
    for depth in (2, 4, 8, 16):
        samples = (indices.astype(np.uint16) * ((1 << depth) // 4)) if depth == 16 else indices
        packed = samples if depth >= 8 else np.packbits(np.unpackbits(samples[..., None], axis=2)[..., 8 - depth :].reshape(HEIGHT, -1), 1)
        shades = np.rint(samples * (255 / ((1 << depth) - 1)))
        shades[indices == 1] = 255
        key = make_chunk(b"tRNS", struct.pack(">H", int(samples[indices == 1][0])))
        shown = Image.fromarray(shades.astype(np.uint8))
        yield Kind(f"png_{depth}_bit_gray_key", make_png(size, depth, 0, make_scan_lines(packed), key), shown, 0.5)
    colors = np.array([[1, 2, 3], [9, 8, 7], [250, 251, 252]], np.uint8)[indices]
    shown_pixels = colors.copy()
    shown_pixels[indices == 1] = 255
    shown = Image.fromarray(shown_pixels)
    yield Kind(
        "png_8_bit_color_key", make_png(size, 8, 2, make_scan_lines(colors), make_chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7))), shown
    )
    key = make_chunk(b"tRNS", struct.pack(">HHH", *(256 * value + 77 for value in (9, 8, 7))))
    yield Kind("png_16_bit_color_key", make_png(size, 16, 2, make_scan_lines(colors.astype(np.uint16) * 256 + 77), key), shown)


def _moving() -> Iterator[Kind]:
    first, later = draw_scene().quantize(64), ImageOps.invert(draw_scene()).quantize(64)
    moving: dict[str, Any] = {"save_all": True, "append_images": [later, first], "duration": 40}
    gif = encode(first, "GIF", **moving)
    yield Kind("gif_animated", gif, first)
    yield Kind("gif_animated_cut_later", gif[: len(gif) * 5 // 6], first)
    rgb = draw_scene()
    moving["append_images"] = [ImageOps.invert(rgb), rgb]
    yield Kind("webp_animated", encode(rgb, "WEBP", lossless=True, **moving), rgb)
    yield Kind("png_animated", encode(rgb, "PNG", **moving), rgb)


def _deep() -> Iterator[Kind]:
    size, ramp = (WIDTH, HEIGHT), np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    shown = Image.fromarray(np.rint(ramp * 255).astype(np.uint8))
    deep = np.rint(ramp * 65535).astype(np.uint16)
    yield Kind("png_16_bit_gray", make_png(size, 16, 0, make_scan_lines(deep)), shown, 0.5)
    yield Kind("png_16_bit_color", make_png(size, 16, 2, make_scan_lines(np.dstack([deep] * 3))), shown, 0.6)
    yield Kind("png_16_bit_gray_alpha", make_png(size, 16, 4, make_scan_lines(np.dstack([deep, np.full_like(deep, 65535)]))), shown, 0.6)
    for depth in (2, 4):
        levels = np.rint(ramp * ((1 << depth) - 1)).astype(np.uint8)
        packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - depth :].reshape(HEIGHT, -1), 1)
        coarse = Image.fromarray((levels * (255 // ((1 << depth) - 1))).astype(np.uint8))
        yield Kind(f"png_{depth}_bit_gray", make_png(size, depth, 0, make_scan_lines(packed)), coarse)
    sixteen = Image.fromarray(deep)
    yield Kind("tiff_16_bit", encode(sixteen, "TIFF"), shown, 0.5)
    yield Kind("tiff_16_bit_lzw", encode(sixteen, "TIFF", compression="tiff_lzw"), shown, 0.5)
    white_first = encode(Image.fromarray(65535 - deep), "TIFF", tiffinfo={262: 0})
    yield Kind("tiff_16_bit_zero_is_white", white_first, shown, 0.5)
    for name, values in (("unit", ramp), ("bytes", ramp * 255), ("shorts", ramp * 65535), ("any", ramp * 9e6 - 1e6)):
        yield Kind(f"tiff_float_{name}", encode(Image.fromarray(values.astype(np.float32)), "TIFF"), shown, 0.5)
    holed = ramp.astype(np.float32)
    holed[0, 0], holed[-1, -1] = np.nan, np.inf
    yield Kind("tiff_float_not_finite", encode(Image.fromarray(holed), "TIFF"), shown, 0.5)
    yield Kind("tiff_float_all_alike", encode(Image.new("F", size, -7), "TIFF"), Image.new("L", size, 0))
    yield Kind("tiff_32_bit", encode(Image.fromarray((ramp * 65535).astype(np.int32)), "TIFF"), shown, 0.6)
    yield Kind("tiff_32_bit_wide", encode(Image.fromarray((ramp * 2e9 - 1e9).astype(np.int32)), "TIFF"), shown, 0.6)


def _tiff() -> Iterator[Kind]:
    image = draw_scene()
    lab = ImageCms.applyTransform(
        image, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    )
    assert lab is not None
    yield Kind("tiff", encode(image, "TIFF"), image)
    yield Kind("tiff_deflate", encode(image, "TIFF", compression="tiff_adobe_deflate"), image)
    yield Kind("tiff_jpeg", encode(image, "TIFF", compression="jpeg", quality=95), image, 8)
    yield Kind("tiff_lab", encode(lab, "TIFF"), image, 4)
    yield Kind("tiff_ycbcr", encode(image.convert("YCbCr"), "TIFF"), image, 3)
    yield Kind("tiff_cmyk", encode(image.convert("CMYK"), "TIFF"), image)
    yield Kind("tiff_one_bit", encode(image.convert("1"), "TIFF", compression="group4"), image.convert("1"))
    yield Kind("tiff_palette", encode(image.quantize(64), "TIFF"), image.quantize(64))
    yield Kind("tiff_of_many_pages", encode(image, "TIFF", save_all=True, append_images=[ImageOps.invert(image)]), image)


def _odd() -> Iterator[Kind]:
    image = draw_scene()
    jpeg, content = encode(image, "JPEG", quality=95, subsampling=0), encode(image, "PNG")
    yield Kind("jpeg_more_behind_it", jpeg + b"\0" * 99, image, 3)
    yield Kind("jpeg_without_end_mark", jpeg[:-2], image, 3)
    yield Kind("png_more_behind_it", content + b"<html>", image)
    yield Kind("png_two_by_two", encode(draw_scene(2, 2), "PNG"), draw_scene(2, 2))
    yield Kind("png_as_long_as_allowed", encode(draw_scene(100, 2), "PNG"), draw_scene(100, 2))
