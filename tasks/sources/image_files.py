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
    """A file: its path relative to the walked folder, its size in bytes and its modification time in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


def is_image_name(name: str) -> bool:
    """Return whether the file name has an image suffix, in any case."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def walk_files(folder: Path, accepts: Callable[[str], bool], prefix: str = "") -> Iterator[FileEntry]:
    """Yield the files below a folder in the order of their path's parts (`a/z.png` before `a.png`).

    Hidden names and links to folders are skipped. Links to files are followed, and broken links are listed as files
    that cannot be read. Memory holds the entries of one folder and of the folders above it.

    Args:
        folder: The folder to walk.
        accepts: Whether a file name is wanted.
        prefix: Prepended to every path.
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
