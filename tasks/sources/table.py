"""A Parquet, CSV or JSON-lines table with one item per row."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.folder import find_named_file, forget_listings
from indexmill.tasks.sources.image_files import walk_files
from indexmill.tasks.sources.table_reader import read_rows, require_columns


class TableSource:
    """The rows of one Parquet, CSV or JSON-lines file, or of all files that match a pattern, in order of their names.

    Without key_column the key is `<file>:<row>`: the file's path below the folder before the first wildcard, and the
    row counted from 0. Such keys stay when files are added or removed. Keys, labels and numbers are read as text. Image
    paths are relative to the folder of their table file.

    Unusable rows are listed for validation to reject: a malformed row has a fault, a null text or key becomes an empty
    one, and an image path that leads out of the folder becomes None.
    """

    image_root: Path | None

    def __init__(self, config: TableDatasetConfig) -> None:
        self._config = config
        self._folder, self._files = _find_table_files(config.path)
        self.modality: Modality = "image" if config.image_column else "text"
        self.image_root = self._folder if config.image_column else None
        self.labeled = config.label_column is not None
        if not self._files:
            raise InputError(
                "no table found",
                where=f"dataset.path = {config.path}",
                expected=f"a {config.source} file, or a pattern that matches some",
                got=_describe_missing_table(config.path, self._folder),
                next_step="correct dataset.path, or name the files of a folder by a pattern, such as FOLDER/*.csv",
            )
        self._require_columns(self._files[0])

    def compute_revision(self) -> str:
        """Return a digest of path, size and modification time of every table file and of every image that they list."""
        files = ((file, *_get_size_and_mtime(self._folder / file)) for file in self._files)
        images = ((item.path, item.size, item.mtime_ns) for item in self.items()) if self.image_root else ()
        return rows_digest(itertools.chain(files, images))

    def items(self) -> Iterator[Item]:
        """Yield the rows in order, file by file. Raises InputError for a file that lacks a column or is unreadable as a whole."""
        config = self._config
        forget_listings()
        columns = (config.key_column, config.label_column, config.text_column, config.image_column)
        for file in self._files:
            self._require_columns(file)
            for row_number, row in enumerate(read_rows(self._folder / file, config.source, columns, config.encoding)):
                key, label, text, image = row.cells
                if row.fault:
                    yield Item(key=f"{file}:line {row.line}" if config.key_column else f"{file}:{row_number}", fault=row.fault)
                    continue
                if config.key_column and not key:
                    line = f"{file}, {'row' if config.source == 'parquet' else 'line'} {row.line}"
                    yield Item(key="", label=label, text=text or "", fault=f"{line}: the row has no key")
                    continue
                item_key = key if config.key_column and key else f"{file}:{row_number}"
                yield (
                    self._make_image_item(file, image, item_key, label, text)
                    if self.image_root
                    else Item(key=item_key, label=label, text=text or "")
                )

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: the rows are not scored."""
        return iter(())

    def _make_image_item(self, file: str, image: str | None, key: str, label: str | None, text: str | None) -> Item:
        path = _resolve_image_path(self._folder, Path(file).parent, image)
        if image and "\0" not in image and (path is None or not os.path.lexists(self._folder / path)):
            found, _ = find_named_file(self._folder, PurePosixPath(file), image)
            path = found if PurePosixPath(found).parts[:1] not in ((), ("/",), ("..",)) and os.path.lexists(self._folder / found) else path
        size, mtime_ns = _get_size_and_mtime(self._folder / path) if path else (None, None)
        return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=mtime_ns)

    def _require_columns(self, file: str) -> None:
        names = ("key_column", "label_column", "text_column", "image_column")
        columns = {f"dataset.{name}": column for name in names if (column := getattr(self._config, name))}
        require_columns(self._folder / file, self._config.source, columns, self._config.encoding)


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


def _describe_missing_table(pattern: str, folder: Path) -> str:
    if Path(pattern).expanduser().is_dir():
        return "a folder"
    return f"no such file in {folder}" if folder.is_dir() else f"no folder {folder}"


def _matches(parts: list[str], patterns: list[str]) -> bool:
    """Return whether a path's parts match a pattern's, where `**` stands for any number of folders."""
    if not patterns or not parts:
        return not patterns and not parts
    if patterns[0] == "**":
        return _matches(parts, patterns[1:]) or _matches(parts[1:], patterns)
    return fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _resolve_image_path(folder: Path, subfolder: Path, image: str | None) -> str | None:
    """Make an image path relative to `folder` instead of `subfolder`; None if it leads out. Links are not resolved."""
    if not image or "\0" in image:
        return None
    path = Path(os.path.normpath(folder / subfolder / image))
    return path.relative_to(folder).as_posix() if folder in path.parents else None


def _get_size_and_mtime(path: Path) -> tuple[int | None, int | None]:
    """Return a file's size in bytes and modification time in nanoseconds; None for both if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None, None
    return stat.st_size, stat.st_mtime_ns
