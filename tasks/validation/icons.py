"""Choose the picture of an ICO file, which holds one in several sizes and depths.

Pillow chooses by the sizes in the file's directory, which need not be those of the pictures, so a size limit would not hold.
Of pictures of one size it takes the one with the fewest colors.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct("<HHH")  # reserved, type, number of entries
_ENTRY = struct.Struct("<BBBBHHII")  # width, height, colors, reserved, planes, bits per pixel, bytes, offset
_SIZE = struct.Struct("<ii")
_MAX_ENTRIES = 256


class IconPicture(NamedTuple):
    """A picture of an icon: its size in pixels as it says itself, its bits per pixel, and a file that holds it alone."""

    size: tuple[int, int]
    bit_depth: int
    content: bytes


def choose_picture(content: bytes) -> IconPicture:
    """Return the largest picture of an icon, and of several the one with the most colors.

    Raises:
        ValueError: The file holds no picture.
    """
    _, _, count = _HEADER.unpack_from(content)
    entries = (_ENTRY.unpack_from(content, _HEADER.size + number * _ENTRY.size) for number in range(min(count, _MAX_ENTRIES)))
    pictures = [picture for entry in entries if (picture := _read_picture(content, entry))]
    if not pictures:
        raise ValueError("the icon holds no picture")
    return max(pictures, key=lambda picture: (picture.size[0] * picture.size[1], picture.bit_depth))


def _read_picture(content: bytes, entry: tuple[int, ...]) -> IconPicture | None:
    *described, bit_depth, length, offset = entry
    data = content[offset : offset + length]
    if data.startswith(PNG_SIGNATURE) and len(data) > 24:
        return IconPicture((int.from_bytes(data[16:20]), int.from_bytes(data[20:24])), bit_depth or 32, data)
    if len(data) < 40:
        return None
    width, double_height = _SIZE.unpack_from(data, 4)  # the height of the picture and its mask
    alone = _HEADER.pack(0, 1, 1) + _ENTRY.pack(*described, bit_depth, length, _HEADER.size + _ENTRY.size) + data
    return IconPicture((abs(width), abs(double_height) // 2), bit_depth, alone)
