"""Parquet tables that hold their images: each file is listed once, and its images are read from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.item_listings import Entry, FileState, ItemListings
from indexmill.tasks.sources.table_files import TableFiles
from indexmill.tasks.sources.table_images import holds_images, holds_lists, read_table_images
from indexmill.tasks.sources.table_reader import read_rows


def open_image_table(config: TableDatasetConfig, tables: TableFiles, root: Root | None, *, relist: bool) -> ImageTable | None:
    """Return the table's images if its first file holds them, else None: then the column has paths or URLs."""
    if config.source != "parquet" or config.image_column is None:
        return None
    kind = find_image_type(tables.open(tables.names[0]), config.image_column)
    return ImageTable(config, tables, root, relist=relist) if kind is not None else None


def find_image_type(file: Path, column: str | None) -> pa.DataType | None:
    """Return the type of a column that holds images; None if it does not, or if the file is unusable, which others report."""
    with suppress(OSError, pa.ArrowException, KeyError):
        kind = pq.read_schema(file).field(column).type
        return kind if holds_images(kind) else None
    return None


class ImageTable:
    """The items of Parquet files with images. Of a list each element is an item, with `/0`, `/1`, … after the row's key.

    Attributes:
        folder: What the items' paths are relative to.
    """

    def __init__(self, config: TableDatasetConfig, tables: TableFiles, root: Root | None, *, relist: bool) -> None:
        self._config, self._tables = config, tables
        self.folder = tables.open(tables.names[0]).parent if tables.url else tables.folder
        columns = [config.image_column, config.text_column, config.label_column, config.key_column]
        self._listings = ItemListings(root, "table", [str(self.folder), config.path, columns], relist=relist) if root else None
        self._names: dict[str, str] = {}

    def items(self) -> Iterator[Item]:
        """Yield the images in order, file by file. Raises InputError for a file that lacks a column or is damaged."""
        files = map(self._describe, self._tables.names)
        listings = self._listings
        entries = listings.read(files, self._list_file) if listings else (entry for file in files for entry in self._list_file(file))
        yield from (entry for entry in entries if isinstance(entry, Item))

    def _describe(self, name: str) -> FileState:
        path = self._tables.open(name)
        status, local_name = path.stat(), path.relative_to(self.folder).as_posix()
        self._names[local_name] = name
        version = json_digest(self._tables.describe_version(name)) if self._tables.url else None
        return FileState(local_name, status.st_size, status.st_mtime_ns, version)

    def _list_file(self, state: FileState) -> Iterator[Entry]:
        """Yield the images of a file with their locations and digests."""
        config, path, name = self._config, self.folder / state.path, self._names[state.path]
        kind = find_image_type(path, config.image_column)
        if kind is None:
            raise InputError(
                f"the column {config.image_column!r} does not hold images",
                where=f"dataset.image_column, {path}",
                expected="images as bytes, as in the first file",
                next_step="store all files in the same way, or leave this one out",
            )
        rows = read_rows(path, config.source, (config.key_column, config.label_column, config.text_column), config.encoding)
        images_by_row = read_table_images(path, state.path, str(config.image_column))
        for number, (row, images) in enumerate(zip(rows, images_by_row, strict=True)):
            key, label, text = row.cells
            if config.key_column is None:
                key = f"{name}:{number}"
            elif row.fault:
                key = f"{name}:line {row.line}"
            for element, image in enumerate(images):
                fault = row.fault or image.fault
                yield Item(
                    key=f"{key}/{element}" if key and holds_lists(kind) else key or "",
                    label=label,
                    text=text,
                    path=None if fault else image.path,
                    size=image.size,
                    mtime_ns=state.mtime_ns,
                    fault=fault,
                    content_digest=None if fault else image.content_digest,
                )
