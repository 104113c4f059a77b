"""Find image files below a folder in a fixed order and list them as items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from indexmill.tasks.sources.base import Item
from indexmill.tasks.validation.image_formats import detect_supported_format, detect_unsupported_format

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Files with these suffixes are items too: decoded by their content, or rejected as unsupported.
OTHER_IMAGE_SUFFIXES = frozenset(
    {".jfif", ".jpe", ".jif", ".mpo", ".apng", ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".ico", ".psd", ".dng"}
)
SIGNATURE_BYTES = 16
SHORT_SIGNATURES = (b"BM", b"\xff\x0a", b"P", b"%!PS")

EntryKind = Literal["file", "hidden", "loop of links", "special file"]


@dataclass(frozen=True)
class FileEntry:
    """A file: its path relative to the walked folder, its size in bytes and its modification time in nanoseconds.

    `kind` tells files from what is not read. A folder that cannot be read is a file that cannot be read.
    """

    path: str
    size: int
    mtime_ns: int
    kind: EntryKind = "file"


def is_image_name(name: str) -> bool:
    """Return whether the file name has an image suffix, in any case."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES | OTHER_IMAGE_SUFFIXES


def is_image_file(path: Path) -> bool:
    """Return whether a file has an image suffix, or starts as an image does; also when it cannot be read."""
    if is_image_name(path.name):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(SIGNATURE_BYTES)
    except OSError:
        return True
    if start.startswith(SHORT_SIGNATURES):  # text may start so too
        return start.startswith(b"BM") and start[6:10] == b"\0\0\0\0"
    return bool(detect_supported_format(start) or detect_unsupported_format(start))


def walk_files(folder: Path, accepts: Callable[[str], bool], prefix: str = "") -> Iterator[FileEntry]:
    """Yield the files below a folder whose names are accepted, in the order of `walk_entries`.

    Args:
        folder: The folder to walk.
        accepts: Whether a file name is wanted.
        prefix: Prepended to every path.
    """
    return (entry for entry in walk_entries(folder, prefix) if entry.kind == "file" and accepts(entry.path.rpartition("/")[2]))


def walk_entries(folder: Path, prefix: str = "") -> Iterator[FileEntry]:
    """Yield what is below a folder in the order of its path's parts (`a/z.png` before `a.png`).

    Links are followed, but not to a folder that the walk is in. Broken links, and files and folders that cannot be read or
    that disappear meanwhile, are listed as files that cannot be read. Hidden names and special files (sockets, pipes,
    devices) are listed, but not entered. Folders may be as deep as the system allows. Memory holds the entries of one
    folder and of the folders above it.

    Args:
        folder: The folder to walk.
        prefix: Prepended to every path.

    Raises:
        OSError: `folder` itself cannot be read.
    """
    levels = [_open_level(folder, prefix)]
    while levels:
        level = levels[-1]
        if (entry := next(level.entries, None)) is None:
            levels.pop()
            continue
        path = level.prefix + entry.name
        if entry.name.startswith("."):
            yield FileEntry(path, 0, 0, "hidden")
            continue
        try:
            if not _is_folder(entry):
                yield _describe_file(entry, path)
                continue
            inner = _open_level(Path(entry.path), f"{path}/")
        except OSError:  # no permission, a broken disk or mount, too long a path, or removed meanwhile
            yield FileEntry(path, 0, 0)
            continue
        if any(inner.identity == outer.identity for outer in levels):
            yield FileEntry(path, 0, 0, "loop of links")
        else:
            levels.append(inner)


@dataclass(frozen=True)
class _Level:
    """A folder that the walk is in: the path prefix of its entries, its device and inode, and its remaining entries."""

    prefix: str
    identity: tuple[int, int]
    entries: Iterator[os.DirEntry[str]]


def _open_level(folder: Path, prefix: str) -> _Level:
    status = folder.stat()
    with os.scandir(folder) as entries:
        return _Level(prefix, (status.st_dev, status.st_ino), iter(sorted(entries, key=lambda entry: entry.name)))


def _describe_file(entry: os.DirEntry[str], path: str) -> FileEntry:
    is_file = _is_file(entry)
    if not is_file and not _is_broken_link(entry):
        return FileEntry(path, 0, 0, "special file")
    status = entry.stat(follow_symlinks=is_file)
    return FileEntry(path, status.st_size, status.st_mtime_ns)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and not Path(entry.path).exists()
    except OSError:
        return True


def make_image_item(file: FileEntry, *, label: str | None = None, text: str | None = None, split: str | None = None) -> Item:
    r"""Make the item of an image file, with its path as the key.

    A table cannot hold a path that is not UTF-8. Such an item has no path, so validation rejects it, and its key is a
    slash and the path, with `\xe9` for each invalid byte and `\\` for a backslash. No other path has that key.
    """
    if _escape_path(file.path) == file.path:
        return Item(key=file.path, label=label, text=text, path=file.path, size=file.size, mtime_ns=file.mtime_ns, split=split)
    return Item(key="/" + _escape_path(file.path), label=label and _escape_path(label), text=text, split=split)


def _escape_path(path: str) -> str:
    """Return the path with invalid UTF-8 escaped; a valid path stays as it is."""
    content = path.encode("utf-8", "surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.replace(b"\\", b"\\\\").decode(errors="backslashreplace")


def resolve_image_path(image_root: Path, folder: Path, image: str | None) -> str | None:
    """Make a path that is relative to `folder`, or absolute, relative to the image root above it; None if it leads out. Links stay."""
    if not image or "\0" in image:
        return None
    path = Path(os.path.normpath(folder / image))
    return path.relative_to(image_root).as_posix() if image_root in path.parents else None


def get_size_and_mtime(path: Path) -> tuple[int | None, int | None]:
    """Return a file's size in bytes and modification time in nanoseconds; None for both if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None, None
    return stat.st_size, stat.st_mtime_ns
