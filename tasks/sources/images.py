"""Image files below a folder: found in one fixed order, and listed as items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from indexmill.tasks.sources.listing import Item

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True)
class FoundFile:
    """A file: its path below the folder that was walked, its size in bytes and modification time in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


def is_image(name: str) -> bool:
    """Whether the file name ends as an image's does, in any case."""
    return Path(name).suffix.lower() in SUFFIXES


def walk(folder: Path, wanted: Callable[[str], bool], below: str = "") -> Iterator[FoundFile]:
    """Files whose name is wanted, ordered by the parts of their path (`a/z.png` before `a.png`); `below` stands before each path.

    Passed over: hidden names and links to folders. A link to a file is that file, wherever it lies; one that leads nowhere is a file
    too, which cannot be read.
    Only the entries of one folder, and of those above it, are held at a time.
    """
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from walk(Path(entry.path), wanted, f"{below}{entry.name}/")
            elif wanted(entry.name) and (entry.is_file() or _leads_nowhere(entry)):
                stat = entry.stat(follow_symlinks=entry.is_file())
                yield FoundFile(below + entry.name, stat.st_size, stat.st_mtime_ns)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not Path(entry.path).exists()


def image_item(file: FoundFile, *, label: str | None = None, text: str | None = None, split: str | None = None) -> Item:
    r"""The item of an image file; key = path.

    A path that is not UTF-8 can be opened but stands in no table. Its item has no path, so that validation rejects it, and as key a
    slash and the path with `\xe9` for each byte that is wrong and `\\` for a backslash: no other path has that key.
    """
    if _escaped(file.path) == file.path:
        return Item(key=file.path, label=label, text=text, path=file.path, size=file.size, mtime_ns=file.mtime_ns, split=split)
    return Item(key="/" + _escaped(file.path), label=label and _escaped(label), text=text, split=split)


def _escaped(path: str) -> str:
    """The path itself where it is UTF-8."""
    content = path.encode("utf-8", "surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
