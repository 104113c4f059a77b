"""What the tables of image files are made with: one scene, Pillow's encoders, and files put together by hand."""

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
    """A file: its content, and the picture that it shows (to a mean difference a sample) or the reason why it shows none."""

    name: str
    content: bytes
    picture: Image.Image | None = None
    tolerance: float = 0
    reason: str = ""


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Four unlike quarters and a ramp, so that no turn, flip or mix of channels goes unnoticed."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 30, 40)
    pixels[: height // 2, width // 2 :] = (30, 180, 60)
    pixels[height // 2 :, : width // 2] = (20, 50, 210)
    pixels[height // 2 :, width // 2 :] = np.linspace(0, 255, width - width // 2, dtype=np.uint8)[:, None]
    return Image.fromarray(pixels)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    """The bytes of the image in a format, by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(size: tuple[int, int], depth: int, colour: int, data: bytes, *before: bytes, interlace: int = 0) -> bytes:
    """A PNG by hand. data: filtered scan lines, not yet deflated; before: chunks ahead of the pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    chunks = chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def lines(samples: np.ndarray) -> bytes:
    """Scan lines without filter, 16-bit samples big-endian."""
    raw = samples.astype(">u2") if samples.dtype == np.uint16 else samples
    return b"".join(b"\0" + row.tobytes() for row in raw)


def interlaced(image: Image.Image) -> bytes:
    """An RGB PNG in the seven passes of Adam7."""
    pixels = np.asarray(image)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b"".join(lines(pixels[top::down, left::across]) for top, left, down, across in passes)
    return png(image.size, 8, 2, data, interlace=1)


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without the header segments of that marker."""
    out, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        out += b"" if jpeg[at + 1] == marker else jpeg[at : at + length]
        at += length
    return out + jpeg[at:]


def with_exif(image: Image.Image, format: str, orientation: int) -> bytes:  # noqa: A002
    """The image stored so that a reader who heeds the orientation shows it as it is."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose, the inverse of each
    stored = image.transpose(Image.Transpose(undo[orientation])) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(stored, format, exif=exif, **({"quality": 95, "subsampling": 0} if format == "JPEG" else {}))


def flipped(content: bytes, at: int) -> bytes:
    """One byte turned over."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
