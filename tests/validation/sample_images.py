"""Build image files: one scene, Pillow's encoders, and files assembled by hand."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
Image.init()


@dataclass(frozen=True)
class Kind:
    """A file with its picture, up to a mean difference per sample, or the reason why it is unreadable."""

    name: str
    content: bytes
    picture: Image.Image | None = None
    tolerance: float = 0
    reason: str = ""


def draw_scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Draw four different quarters, one a ramp, so that every rotation, flip or swap of channels is detected."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 40)
    pixels[: height // 2, width // 2 :] = (30, 180, 60)
    pixels[height // 2 :, : width // 2] = (20, 50, 210)
    pixels[height // 2 :, width // 2 :] = np.linspace(0, 255, width - width // 2, dtype=np.uint8)[:, None]
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    """Encode the image with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def make_chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(size: tuple[int, int], depth: int, color: int, data: bytes, *before: bytes, interlace: int = 0) -> bytes:
    """Assemble a PNG. data: filtered, uncompressed scan lines. before: chunks ahead of the pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, interlace)
    chunks = make_chunk(b"IHDR", header) + b"".join(before) + make_chunk(b"IDAT", zlib.compress(data)) + make_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def make_scan_lines(samples: np.ndarray) -> bytes:
    """Return unfiltered scan lines, 16-bit samples big-endian."""
    raw = samples.astype(">u2") if samples.dtype == np.uint16 else samples
    return b"".join(b"\0" + row.tobytes() for row in raw)


def encode_interlaced(image: Image.Image) -> bytes:
    """Encode an RGB PNG in the seven passes of Adam7."""
    pixels = np.asarray(image)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(make_scan_lines(pixels[top::down, left::across]) for top, left, down, across in passes)
    return make_png(image.size, 8, 2, data, interlace=1)


def remove_segment(jpeg: bytes, marker: int) -> bytes:
    """Remove the header segments with a marker from a JPEG."""
    out, position = jpeg[:2], 2
    while jpeg[position + 1] != 0xDA:
        length = 2 + struct.unpack(">H", jpeg[position + 2 : position + 4])[0]
        out += b"" if jpeg[position + 1] == marker else jpeg[position : position + length]
        position += length
    return out + jpeg[position:]


def encode_with_exif(image: Image.Image, format: str, orientation: int) -> bytes:  # noqa: A002
    """Store the image so that a reader that applies the orientation shows it upright."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose, the inverse of each
    stored = image.transpose(Image.Transpose(undo[orientation])) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(stored, format, exif=exif, **({"quality": 95, "subsampling": 0} if format == "JPEG" else {}))


def flip_byte(content: bytes, position: int) -> bytes:
    """Invert one byte."""
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def make_icon(*pictures: tuple[int, int, int, bytes]) -> bytes:
    """Make an ICO file of PNG files, each with the width, height and bits per pixel that the directory says."""
    offset, entries = 6 + 16 * len(pictures), b""
    for width, height, bits, content in pictures:
        entries += struct.pack("<BBBBHHII", width, height, 0, 0, 1, bits, len(content), offset)
        offset += len(content)
    return struct.pack("<HHH", 0, 1, len(pictures)) + entries + b"".join(content for *_, content in pictures)
