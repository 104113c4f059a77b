"""Unreadable files, each with the reason."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator

from PIL import Image
from sample_images import WIDTH, Kind, draw_scene, encode, flip_byte, make_chunk, make_icon, make_png

from indexmill.tasks.validation.image_formats import has_heif_decoder


def list_broken_files() -> list[Kind]:
    """List all files, each with its own name."""
    return [*_foreign(), *_damaged(), *_misshapen()]


def _foreign() -> Iterator[Kind]:
    texts = {
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "text": b"This image has moved.\n",
        "json": json.dumps({"error": "rate limited"}).encode(),
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "zeros": b"\0" * 5000,
        "one_byte": b"\xff",
        "random": b"\x17" + random.Random(7).randbytes(5000),
        "film": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    }
    yield Kind("nothing", b"", reason="empty")
    for name, content in texts.items():
        yield Kind(name, content, reason="not_an_image")
    for format in ("EPS", "PPM", "DDS", "ICNS"):  # noqa: A001
        if format in Image.SAVE:
            yield Kind(format.lower(), encode(draw_scene(), format), reason="unsupported")
    yield Kind("psd", b"8BPS\0\1" + b"\0" * 40, reason="unsupported")
    yield Kind("jpeg_xl", b"\xff\x0a" + b"\0" * 40, reason="unsupported")
    yield Kind("heic_start", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", reason="damaged" if has_heif_decoder() else "unsupported")


def _damaged() -> Iterator[Kind]:
    image = draw_scene(200, 160)
    files = {
        "jpeg": encode(image, "JPEG"),
        "png": encode(image, "PNG"),
        "gif": encode(image.quantize(64), "GIF"),
        "webp": encode(image, "WEBP"),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF", compression="tiff_lzw"),
        "avif": encode(image, "AVIF"),
        "jp2": encode(image, "JPEG2000"),
        "ico": encode(image.resize((64, 64)), "ICO", sizes=[(64, 64)]),
    }
    for name, content in files.items():
        for fraction in (0.03, 0.3, 0.6, 0.9):
            yield Kind(f"{name}_cut_at_{fraction}", content[: max(16, int(len(content) * fraction))], reason="damaged")
    whole = files["png"]
    yield Kind("png_cut_last", whole[:-12], reason="damaged")
    yield Kind("png_line_ends_changed", whole.replace(b"\r\n", b"\n", 1), reason="damaged")
    yield Kind("png_header_changed", flip_byte(whole, 20), reason="damaged")
    for fraction in (0.3, 0.5, 0.8):
        yield Kind(f"png_changed_at_{fraction}", flip_byte(whole, int(len(whole) * fraction)), reason="damaged")
    garbage = make_chunk(b"IDAT", b"not deflated at all")
    yield Kind("png_garbage", whole[:33] + garbage + make_chunk(b"IEND", b""), reason="damaged")
    yield Kind("png_without_pixels", whole[:33] + make_chunk(b"IEND", b""), reason="damaged")
    yield Kind("png_too_few_pixels", make_png((99, 99), 8, 2, b"\0" * 900), reason="damaged")
    yield Kind("png_no_width", make_png((0, 9), 8, 2, b""), reason="damaged")
    yield Kind("gif_no_frame", files["gif"][:13] + b";", reason="damaged")
    yield Kind("webp_changed", flip_byte(files["webp"], 25), reason="damaged")
    yield Kind("jpeg_only_its_start", b"\xff\xd8\xff\xe0", reason="damaged")


def _misshapen() -> Iterator[Kind]:
    gif, bmp, tiff = (encode(draw_scene().quantize(64), name) for name in ("GIF", "BMP", "TIFF"))
    jpeg = encode(draw_scene(), "JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    yield Kind("png_bomb", make_png((100_000, 100_000), 1, 0, b"\0" * 1000), reason="too_large")
    yield Kind("png_largest_claim", make_png((2**31 - 1, 2**31 - 1), 8, 6, b""), reason="too_large")
    yield Kind("gif_bomb", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], reason="too_large")
    yield Kind("jpeg_bomb", jpeg[:start] + b"\xff\xdc\xff\xdc" + jpeg[start + 4 :], reason="too_large")
    yield Kind("bmp_bomb", bmp[:18] + struct.pack("<ii", 90_000, 90_000) + bmp[26:], reason="too_large")
    yield Kind(
        "tiff_bomb", tiff.replace(struct.pack("<HHII", 256, 4, 1, WIDTH), struct.pack("<HHII", 256, 4, 1, 1 << 30)), reason="too_large"
    )
    yield Kind("icon_bomb", make_icon((64, 64, 32, make_png((100_000, 100_000), 8, 6, b""))), reason="too_large")
    bitmap = encode(draw_scene(64, 64), "ICO", sizes=[(64, 64)], bitmap_format="bmp")
    yield Kind("icon_bitmap_bomb", bitmap[:26] + struct.pack("<ii", 30_000, 60_000) + bitmap[34:], reason="too_large")
    jp2 = encode(draw_scene(), "JPEG2000")
    size = jp2.index(b"ihdr") + 4
    yield Kind("jp2_bomb", jp2[:size] + struct.pack(">II", 90_000, 90_000) + jp2[size + 8 :], reason="too_large")
    hidden = encode(Image.new("L", (2000, 2000)), "JPEG2000")
    yield Kind("jp2_of_two_sizes", hidden[:size] + struct.pack(">II", 40, 40) + hidden[size + 8 :], reason="damaged")
    yield Kind("webp_bomb", encode(Image.new("1", (16000, 700)), "WEBP", quality=1, method=0), reason="too_large")
    yield Kind("png_strip", encode(draw_scene(102, 2), "PNG"), reason="odd_shape")
    yield Kind("png_tall_strip", encode(draw_scene(2, 102), "PNG"), reason="odd_shape")
    yield Kind("gif_one_pixel", encode(Image.new("P", (1, 1)), "GIF"), reason="too_small")
    yield Kind("png_line", encode(Image.new("L", (1, 40)), "PNG"), reason="too_small")
