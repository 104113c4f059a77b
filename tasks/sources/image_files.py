"""Find image files below a folder in a fixed order and list them as items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from indexmill.tasks.sources.base import Item

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class FileEntry:
    """A file: its path below the folder that was walked, its size in bytes and modification time in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


def is_image_name(name: str) -> bool:
    """Whether the file name ends as an image's does, in any case."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def walk_files(folder: Path, accepts: Callable[[str], bool], prefix: str = "") -> Iterator[FileEntry]:
    """Files whose name is wanted, ordered by the parts of their path (`a/z.png` before `a.png`); `prefix` stands before each path.

    Passed over: hidden names and links to folders. A link to a file is that file, wherever it lies; one that leads nowhere is a file
    too, which cannot be read.
    Only the entries of one folder, and of those above it, are held at a time.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from walk_files(Path(entry.path), accepts, f"{prefix}{entry.name}/")
            elif accepts(entry.name) and (entry.is_file() or _is_broken_link(entry)):
                stat = entry.stat(follow_symlinks=entry.is_file())
                yield FileEntry(prefix + entry.name, stat.st_size, stat.st_mtime_ns)


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not Path(entry.path).exists()


def make_image_item(file: FileEntry, *, label: str | None = None, text: str | None = None, split: str | None = None) -> Item:
    r"""The item of an image file; key = path.

    A path that is not UTF-8 can be opened but stands in no table. Its item has no path, so that validation rejects it, and as key a
    slash and the path with `\xe9` for each byte that is wrong and `\\` for a backslash: no other path has that key.
    """
    if _escape_path(file.path) == file.path:
        return Item(key=file.path, label=label, text=text, path=file.path, size=file.size, mtime_ns=file.mtime_ns, split=split)
    return Item(key="/" + _escape_path(file.path), label=label and _escape_path(label), text=text, split=split)


def _escape_path(path: str) -> str:
    """The path itself where it is UTF-8."""
    content = path.encode("utf-8", "surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
