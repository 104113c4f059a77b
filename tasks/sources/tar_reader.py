"""List the members of a tar archive with their offsets, and unpack nothing.

Reads ustar, GNU long names and pax. Python's tarfile ends at the first broken header as if the archive ended there, and
reads a header of any claimed size into memory; here the next header is looked for, and headers are bounded. What no
tool needs for an image (sparse files, links, devices) is listed with its kind.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 1 << 20  # of a long name or a pax header
SCAN_BYTES = 1 << 20
MAGIC, MAGIC_OFFSET = b"ustar", 257
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PAX_RECORD = re.compile(rb"(\d{1,10}) ")

MemberKind = Literal["file", "link", "special file", "other"]


@dataclass(frozen=True)
class TarMember:
    """A member of an archive, without folders.

    Attributes:
        name: Its name; empty for a part of the archive that is no member. Bytes that are not UTF-8 are written as `\\xe9`.
        offset: Where its content starts.
        size: The content's size in bytes.
        kind: What it is.
        fault: Why it cannot be read.
    """

    name: str
    offset: int
    size: int
    kind: MemberKind = "file"
    fault: str | None = None


@dataclass
class _Extension:
    """What the headers before a member's own say about it."""

    long_name: str | None = None
    pax: dict[str, str] = field(default_factory=dict)
    fault: str | None = None


def read_members(archive: BinaryIO, size: int) -> Iterator[TarMember]:
    """Yield the members in order. Memory: one header of at most MAX_HEADER_BYTES.

    Members after the end of an archive are listed too: archives are sometimes appended to one another.

    Args:
        archive: The archive; the caller may move its position between members.
        size: The archive's size in bytes.
    """
    position, extension, shared = 0, _Extension(), dict[str, str]()
    while position < size:
        archive.seek(position)
        block = archive.read(BLOCK)
        if not block.strip(b"\0"):  # the end, usually
            position = _find_next_header(archive, position + BLOCK, size)
            continue
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
            if header.size < 0:
                raise tarfile.HeaderError("negative size")
        except tarfile.HeaderError as error:
            end = _find_next_header(archive, position + BLOCK, size)
            yield TarMember("", position, end - position, fault=_describe_gap(block, position, end, size, error))
            position, extension = end, _Extension()
            continue
        start = position + BLOCK
        if header.type in _EXTENSION_TYPES:
            if start + header.size > size:
                extension.fault = f"its header claims {header.size:,} bytes, and {size - start:,} are left"
                position = _find_next_header(archive, start, size)
                continue
            _read_extension(archive, header, extension, shared)
            position = start + _pad(header.size)
            continue
        member, position = _make_member(archive, header, extension, shared, start, size)
        extension = _Extension()
        if member:
            yield member


_EXTENSION_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_KINDS: dict[bytes, MemberKind] = {
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "special file",
    tarfile.BLKTYPE: "special file",
    tarfile.FIFOTYPE: "special file",
}


def _read_extension(archive: BinaryIO, header: tarfile.TarInfo, extension: _Extension, shared: dict[str, str]) -> None:
    """Read a header that says something about the next member, or with pax's type `g` about all that follow."""
    if header.size > MAX_HEADER_BYTES:
        extension.fault = f"its header has {header.size:,} bytes, more than {MAX_HEADER_BYTES:,}"
        return
    content = archive.read(header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        extension.long_name = content.split(b"\0", 1)[0].decode(errors="backslashreplace")
    elif header.type != tarfile.GNUTYPE_LONGLINK:
        try:
            (shared if header.type == tarfile.XGLTYPE else extension.pax).update(_parse_pax(content))
        except ValueError:
            extension.fault = "its pax header is broken"


def _parse_pax(content: bytes) -> dict[str, str]:
    """Parse records `LENGTH KEY=VALUE` and a newline. Raises ValueError for anything else."""
    records, position = dict[str, str](), 0
    content = content.rstrip(b"\0")
    while position < len(content):
        match = PAX_RECORD.match(content, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise ValueError("not a pax record")
        key, separator, value = content[match.end() : end - 1].partition(b"=")
        if not separator:
            raise ValueError("not a pax record")
        records[key.decode(errors="backslashreplace")] = value.decode(errors="backslashreplace")
        position = end
    return records


def _make_member(
    archive: BinaryIO, header: tarfile.TarInfo, extension: _Extension, shared: dict[str, str], start: int, archive_size: int
) -> tuple[TarMember | None, int]:
    """Return the member of a header, None for a folder, and where the next header is."""
    pax = shared | extension.pax
    name = pax.get("path") or extension.long_name or header.name
    size, fault = header.size, extension.fault
    if "size" in pax and not fault:
        fault = None if re.fullmatch(r"\d{1,18}", pax["size"]) else "its pax header has an impossible size"
        size = size if fault else int(pax["size"])
    if header.type == tarfile.GNUTYPE_SPARSE:
        start = _skip_sparse_map(archive, start)
    if header.isdir():
        return None, start
    kind = _KINDS.get(header.type, "file" if header.isreg() else "other")
    if kind in ("link", "special file"):
        return TarMember(name, start, 0, kind, f"a {kind}, which has no content of its own"), start
    if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax):
        fault = "a sparse file: store it whole (tar without --sparse)"
    if start + size > archive_size:
        fault = f"the archive is truncated: the member claims {size:,} bytes, and {archive_size - start:,} are left"
        return TarMember(name, start, 0, kind, fault), _find_next_header(archive, start, archive_size)
    return TarMember(name, start, size, kind, fault), start + _pad(size)


def _skip_sparse_map(archive: BinaryIO, start: int) -> int:
    """Return where the content of an old GNU sparse file starts: after the blocks that continue its map."""
    archive.seek(start - BLOCK)
    block, flag = archive.read(BLOCK), 482
    while len(block) == BLOCK and block[flag]:
        block, flag, start = archive.read(BLOCK), 504, start + BLOCK
    return start


def _find_next_header(archive: BinaryIO, position: int, size: int) -> int:
    """Return the position of the next valid ustar header from a position on, or the archive's size."""
    while position < size:
        archive.seek(position)
        window = archive.read(SCAN_BYTES)
        if not window:
            break
        found = window.find(MAGIC)
        while found >= 0:
            at = found - MAGIC_OFFSET
            if at >= 0 and at % BLOCK == 0 and _is_header(window[at : at + BLOCK]):
                return position + at
            found = window.find(MAGIC, found + 1)
        position += len(window) // BLOCK * BLOCK or BLOCK
    return size


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError:
        return False
    return True


def _describe_gap(block: bytes, start: int, end: int, size: int, error: tarfile.HeaderError) -> str:
    if start == 0 and (name := next((name for magic, name in COMPRESSIONS.items() if block.startswith(magic)), None)):
        return f"compressed by {name}: only members of a plain tar can be read by range; unpack the shard to one"
    if start == 0 and end == size:
        return f"not a tar archive: {error}"
    return f"bytes {start:,} to {end:,} are no member of the archive: {error}"


def _pad(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
