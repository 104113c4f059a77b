"""A Parquet, CSV or JSON-lines table with one item per row."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.folder import find_named_file, forget_listings
from indexmill.tasks.sources.item_listings import Entry, FileState, ItemListings
from indexmill.tasks.sources.table_images import find_image_type, holds_lists, read_table_images
from indexmill.tasks.sources.table_reader import TableRow, read_rows, require_columns

COLUMN_SETTINGS = ("key_column", "label_column", "text_column", "image_column")


class TableSource:
    """The rows of one Parquet, CSV or JSON-lines file, or of all files that match a pattern, in order of their names.

    Without key_column the key is `<file>:<row>`: the file's path below the folder before the first wildcard, and the
    row counted from 0. Such keys stay when files are added or removed. Keys, labels and numbers are read as text. Image
    paths are relative to the folder of their table file. A Parquet column may hold the images themselves; of a list each
    element is an item, with `/0`, `/1`, … after the key.

    Unusable rows are listed for validation to reject: a malformed row has a fault, a null text or key becomes an empty
    one, and an image path that leads out of the folder becomes None.
    """

    image_root: Path | None

    def __init__(self, config: TableDatasetConfig, root: Root, *, relist: bool = False) -> None:
        self._config = config
        self._folder, self._files = _find_table_files(config.path)
        self.modality: Modality = "image" if config.image_column else "text"
        self.image_root = self._folder if config.image_column else None
        self.labeled = config.label_column is not None
        self._image_types: dict[str, pa.DataType | None] = {}
        if not self._files:
            raise InputError(
                "no table found",
                where=f"dataset.path = {config.path}",
                expected=f"a {config.source} file, or a pattern that matches some",
                got=f"no such file in {self._folder}" if self._folder.is_dir() else f"no folder {self._folder}",
                next_step="correct dataset.path",
            )
        self._require_columns(self._files[0])
        columns = {name: getattr(config, name) for name in COLUMN_SETTINGS}
        self._listings = ItemListings(root, "table", [str(self._folder), columns], relist=relist)

    def compute_revision(self) -> str:
        """Return a digest of path, size and modification time of every table file and of every image that they list."""
        files = ((file, *_get_size_and_mtime(self._folder / file)) for file in self._files)
        with_paths = [file for file in self._files if self._find_image_type(file) is None] if self.image_root else []
        images = ((item.path, item.size, item.mtime_ns) for file in with_paths for item in self._iterate_rows(file))
        return rows_digest(itertools.chain(files, images))

    def items(self) -> Iterator[Item]:
        """Yield the rows in order, file by file. Raises InputError for a file that lacks a column or is unreadable as a whole."""
        forget_listings()
        for file in self._files:
            self._require_columns(file)
        with_images = [file for file in self._files if self._find_image_type(file) is not None]
        states = (FileState(file, *_get_size_and_mtime(self._folder / file)) for file in with_images)
        yield from (entry for entry in self._listings.read(states, self._list_images) if isinstance(entry, Item))
        for file in self._files:
            if file not in with_images:
                yield from self._iterate_rows(file)

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: the rows are not scored."""
        return iter(())

    def _iterate_rows(self, file: str) -> Iterator[Item]:
        """Yield the rows of a file of texts or of image paths."""
        for row_number, row in enumerate(self._read_rows(file, self._config.image_column)):
            _, label, text, image = row.cells
            key = self._make_key(file, row_number, row)
            if row.fault:
                yield Item(key=key, fault=row.fault)
            elif self.image_root:
                yield self._make_image_item(file, image, key, label, text)
            else:
                yield Item(key=key, label=label, text=text or "")

    def _list_images(self, state: FileState) -> Iterator[Entry]:
        """Yield the items of a file that holds images, with their locations and digests."""
        column = str(self._config.image_column)
        has_lists = holds_lists(pq.read_schema(self._folder / state.path).field(column).type)
        images_by_row = read_table_images(self._folder / state.path, state.path, column)
        for row_number, (row, images) in enumerate(zip(self._read_rows(state.path, None), images_by_row, strict=True)):
            _, label, text, _ = row.cells
            key = self._make_key(state.path, row_number, row)
            for element, image in enumerate(images):
                item_key = f"{key}/{element}" if has_lists and key else key
                if fault := row.fault or image.fault:
                    yield Item(key=item_key, label=label, text=text, fault=fault)
                    continue
                yield Item(
                    key=item_key,
                    label=label,
                    text=text,
                    path=image.path,
                    size=image.size,
                    mtime_ns=state.mtime_ns,
                    content_digest=image.content_digest,
                )

    def _read_rows(self, file: str, image_column: str | None) -> Iterator[TableRow]:
        config = self._config
        columns = (config.key_column, config.label_column, config.text_column, image_column)
        return read_rows(self._folder / file, config.source, columns, config.encoding)

    def _make_key(self, file: str, row_number: int, row: TableRow) -> str:
        if self._config.key_column is None:
            return f"{file}:{row_number}"
        return f"{file}:line {row.line}" if row.fault else row.cells[0] or ""

    def _find_image_type(self, file: str) -> pa.DataType | None:
        """Return the type of the image column if the file holds the images themselves."""
        if file not in self._image_types:
            is_parquet = self._config.source == "parquet"
            self._image_types[file] = find_image_type(self._folder / file, self._config.image_column) if is_parquet else None
        return self._image_types[file]

    def _make_image_item(self, file: str, image: str | None, key: str, label: str | None, text: str | None) -> Item:
        path = _resolve_image_path(self._folder, Path(file).parent, image)
        if image and "\0" not in image and (path is None or not os.path.lexists(self._folder / path)):
            found, _ = find_named_file(self._folder, PurePosixPath(file), image)
            path = found if PurePosixPath(found).parts[:1] not in ((), ("/",), ("..",)) and (self._folder / found).exists() else path
        size, mtime_ns = _get_size_and_mtime(self._folder / path) if path else (None, None)
        return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=mtime_ns)

    def _require_columns(self, file: str) -> None:
        columns = {f"dataset.{name}": column for name in COLUMN_SETTINGS if (column := getattr(self._config, name))}
        if self._find_image_type(file) is not None:
            del columns["dataset.image_column"]
        require_columns(self._folder / file, self._config.source, columns, self._config.encoding)


def _find_table_files(pattern: str) -> tuple[Path, list[str]]:
    """Return the folder before the first wildcard, and the matching files below it in order, without hidden ones.

    If a file of exactly this name exists, its wildcards are literal.
    """
    path = Path(pattern).expanduser().absolute()
    if path.is_file() or not glob.has_magic(pattern):
        return path.parent.resolve(), [path.name] if path.is_file() else []
    folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    matches = (match.relative_to(folder) for match in folder.glob(str(path.relative_to(folder))) if match.is_file())
    return folder.resolve(), sorted(match.as_posix() for match in matches if not any(part.startswith(".") for part in match.parts))


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
