"""The files of a table and the images that its rows name, on disk or behind URLs."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Protocol

from indexmill.configs.datasets import DownloadsConfig, TableDatasetConfig
from indexmill.storage.digests import file_digest
from indexmill.storage.root import Root
from indexmill.storage.urls import MAGIC, has_wildcard, is_url, join_url
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.image_downloads import ImageDownloads
from indexmill.tasks.sources.image_files import get_size_and_mtime, walk_files
from indexmill.tasks.sources.remote_files import RemoteFile, RemoteFiles


class TableFiles(Protocol):
    """The files that a path, a pattern or a URL names.

    Attributes:
        names: Their paths below the folder before the first wildcard, in order.
        folder: That folder; a remote one has none that could be read.
        url: Its URL; None on disk.
    """

    names: list[str]
    folder: Path
    url: str | None

    def open(self, name: str) -> Path:
        """Return the file on this machine; downloads it if necessary."""
        ...

    def describe_version(self, name: str) -> tuple[object, ...]:
        """Return what changes with a file's content, without reading it."""
        ...

    def describe_missing(self) -> str:
        """Say what is there instead of a table."""
        ...


class LocalTableFiles:
    """Tables on disk. If a file of exactly this name exists, its wildcards are literal."""

    url: str | None = None

    def __init__(self, pattern: str) -> None:
        self._path = Path(pattern).expanduser()
        self.folder, self.names = _find_table_files(pattern)

    def open(self, name: str) -> Path:
        """Return the file."""
        return self.folder / name

    def describe_version(self, name: str) -> tuple[object, ...]:
        """Return path, size and modification time."""
        return name, *get_size_and_mtime(self.folder / name)

    def describe_missing(self) -> str:
        """Say whether it is the file that is missing, or the folder."""
        if self._path.is_dir():
            return "a folder"
        return f"no such file in {self.folder}" if self.folder.is_dir() else f"no folder {self.folder}"


class RemoteTableFiles:
    """Tables behind a URL. A version is downloaded once, into the root's folder of sources."""

    url: str | None

    def __init__(self, config: TableDatasetConfig, root: Root) -> None:
        self._downloads = ImageDownloads(root, config.path, DownloadsConfig())
        self.url = _find_folder(config.path)
        files = RemoteFiles().list_files(config.path)
        self._files: dict[str, RemoteFile] = {file.url.removeprefix(self.url + "/"): file for file in files}
        self._copies: dict[str, Path] = {}
        self.names = sorted(name for name in self._files if not any(part.startswith(".") for part in name.split("/")))
        self.folder = self._downloads.folder

    def open(self, name: str) -> Path:
        """Return the copy of the file. One without ETag and modification time is downloaded once per build."""
        if name not in self._copies:
            self._copies[name] = self._downloads.fetch_file(self._files[name])
        return self._copies[name]

    def describe_version(self, name: str) -> tuple[object, ...]:
        """Return path, size and version; for a file whose server gives none, the digest of its content."""
        file = self._files[name]
        return name, file.size, file.version or file_digest(self.open(name))

    def describe_missing(self) -> str:
        """Say where nothing was found."""
        return f"no such file below {self.url}"


def make_remote_item(
    downloads: ImageDownloads, folder_url: str | None, file: str, image: str | None, *, key: str, label: str | None, text: str | None
) -> Item:
    """Make the item of an image that is a URL, or a path relative to the folder of its table's URL.

    Args:
        downloads: Names the copy.
        folder_url: The URL of the folder that `file` is relative to; None if the table is on disk.
        file: The table.
        image: What the row names.
        key: The item's key.
        label: Its label.
        text: Its caption.
    """
    url = image if image and is_url(image) else _resolve(folder_url, file, image)
    if url is None:
        fault = f"not a URL, as the table's first image is: {image[:100]!r}" if image and folder_url is None else None
        return Item(key=key, label=label, text=text, fault=fault)
    path = downloads.locate(url)
    size, mtime_ns = get_size_and_mtime(downloads.folder / path)
    return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=mtime_ns, url=url)


def _resolve(folder_url: str | None, file: str, image: str | None) -> str | None:
    """Return the URL of a path relative to its table's; None if it leads out of the folder."""
    if folder_url is None or not image or "\0" in image or image.startswith("/"):
        return None
    name = normpath(PurePosixPath(file).parent / image)
    return None if name.split("/")[0] in ("..", ".") else join_url(folder_url, name)


def _find_folder(url: str) -> str:
    """Return the URL of the folder before the first wildcard, or of the file's folder."""
    if not has_wildcard(url):
        return url.rpartition("/")[0]
    return MAGIC.split(url, maxsplit=1)[0].rpartition("/")[0]


def _find_table_files(pattern: str) -> tuple[Path, list[str]]:
    """Return the folder before the first wildcard, and the matching files below it in order, without hidden ones.

    If a file of exactly this name exists, its wildcards are literal, as are those of folders that exist. `**` follows links.
    """
    path = Path(pattern).expanduser().absolute()
    if path.is_file() or not glob.has_magic(pattern):
        return path.parent.resolve(), [path.name] if path.is_file() else []
    folder, remaining = Path(path.parts[0]), list(path.parts[1:])
    while len(remaining) > 1 and (not glob.has_magic(remaining[0]) or (folder / remaining[0]).is_dir()):
        folder /= remaining.pop(0)
    found: Iterator[str] = iter(())
    if "**" not in remaining:
        found = (match.relative_to(folder).as_posix() for match in folder.glob("/".join(remaining)) if match.is_file())
    elif folder.is_dir():
        found = (file.path for file in walk_files(folder, lambda _: True) if _matches(file.path.split("/"), remaining))
    return folder.resolve(), sorted(file for file in found if not any(part.startswith(".") for part in file.split("/")))


def _matches(parts: list[str], patterns: list[str]) -> bool:
    """Return whether a path's parts match a pattern's, where `**` stands for any number of folders."""
    if not patterns or not parts:
        return not patterns and not parts
    if patterns[0] == "**":
        return _matches(parts, patterns[1:]) or _matches(parts[1:], patterns)
    return fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
