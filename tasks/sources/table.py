"""A Parquet, CSV or JSON-lines table with one item per row."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.storage.urls import is_url
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.folder import find_named_file, forget_listings
from indexmill.tasks.sources.image_downloads import ImageDownloads, RemoteImage
from indexmill.tasks.sources.image_files import get_size_and_mtime, resolve_image_path
from indexmill.tasks.sources.image_table import ImageTable, open_image_table
from indexmill.tasks.sources.table_files import LocalTableFiles, RemoteTableFiles, TableFiles, make_remote_item
from indexmill.tasks.sources.table_reader import read_rows, require_columns


class TableSource:
    """The rows of one Parquet, CSV or JSON-lines file, or of all files that match a pattern, in order of their names.

    Without key_column the key is `<file>:<row>`: the file's path below the folder before the first wildcard, and the
    row counted from 0. Such keys stay when files are added or removed. Keys, labels and numbers are read as text. Image
    paths are relative to the folder of their table file.

    Unusable rows are listed for validation to reject: a malformed row has a fault, a null text or key becomes an empty
    one, and an image path that leads out of the folder becomes None.

    Args:
        config: The data set's config.
        root: Where images are downloaded to when the first one in the table is a URL, or the table itself is behind one.
            Without a root nothing is downloaded.
        relist: List Parquet files again that hold the images themselves.
    """

    image_root: Path | None

    def __init__(self, config: TableDatasetConfig, root: Root | None = None, *, relist: bool = False) -> None:
        self._config = config
        self._tables: TableFiles = RemoteTableFiles(config, root) if root and is_url(config.path) else LocalTableFiles(config.path)
        self.modality: Modality = "image" if config.image_column else "text"
        self.labeled = config.label_column is not None
        if not self._tables.names:
            raise InputError(
                "no table found",
                where=f"dataset.path = {config.path}",
                expected=f"a {config.source} file, or a pattern that matches some",
                got=self._tables.describe_missing(),
                next_step="correct dataset.path, or name the files of a folder by a pattern, such as FOLDER/*.csv",
            )
        self._images: ImageTable | None = open_image_table(config, self._tables, root, relist=relist)
        self._require_columns(self._tables.names[0])
        self.downloads: ImageDownloads | None = None
        if self._images:
            self.image_root = self._images.folder
            return
        if root and config.image_column and (self._tables.url or self._holds_urls()):
            self.downloads = ImageDownloads(root, config.path, config.downloads, trusted_url=self._tables.url)
        self.image_root = (self.downloads.folder if self.downloads else self._tables.folder) if config.image_column else None

    def compute_revision(self) -> str:
        """Return a digest that changes with the table files and with every image that they list.

        Files and images on disk count by path, size and modification time, files behind URLs by size, ETag and time, and
        downloaded images by how often one of them has changed; the server is asked here when that is due.
        """
        files = (self._tables.describe_version(name) for name in self._tables.names)
        if self._images:
            return rows_digest(files)
        if self.downloads:
            changes = self.downloads.recheck(
                RemoteImage(item.url, item.path, item.mtime_ns, item.version) for item in self.items() if item.url and item.path
            )
            return rows_digest([*files, ("changed downloads", changes)])
        images = ((item.path, item.size, item.mtime_ns) for item in self.items()) if self.image_root else ()
        return rows_digest(itertools.chain(files, images))

    def items(self) -> Iterator[Item]:
        """Yield the rows in order, file by file. Raises InputError for a file that lacks a column or is unreadable as a whole."""
        config = self._config
        if self._images:
            yield from self._images.items()
            return
        forget_listings()
        columns = (config.key_column, config.label_column, config.text_column, config.image_column)
        for file in self._tables.names:
            self._require_columns(file)
            for row_number, row in enumerate(read_rows(self._tables.open(file), config.source, columns, config.encoding)):
                key, label, text, image = row.cells
                if row.fault:
                    yield Item(key=f"{file}:line {row.line}" if config.key_column else f"{file}:{row_number}", fault=row.fault)
                    continue
                if config.key_column and not key:
                    line = f"{file}, {'row' if config.source == 'parquet' else 'line'} {row.line}"
                    yield Item(key="", label=label, text=text or "", fault=f"{line}: the row has no key")
                    continue
                item_key = key if config.key_column and key else f"{file}:{row_number}"
                if not self.image_root:
                    yield Item(key=item_key, label=label, text=text or "")
                elif self.downloads:
                    yield make_remote_item(self.downloads, self._tables.url, file, image, key=item_key, label=label, text=text)
                else:
                    yield self._make_image_item(file, image, item_key, label, text)

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: the rows are not scored."""
        return iter(())

    def _holds_urls(self) -> bool:
        """Whether the first image of the table is a URL."""
        rows = read_rows(self._tables.open(self._tables.names[0]), self._config.source, (self._config.image_column,), self._config.encoding)
        return is_url(next((row.cells[0] for row in rows if row.cells[0]), ""))

    def _make_image_item(self, file: str, image: str | None, key: str, label: str | None, text: str | None) -> Item:
        folder = self._tables.folder
        path = resolve_image_path(folder, folder / Path(file).parent, image)
        if image and "\0" not in image and (path is None or not os.path.lexists(folder / path)):
            found, _ = find_named_file(folder, PurePosixPath(file), image)
            path = found if PurePosixPath(found).parts[:1] not in ((), ("/",), ("..",)) and os.path.lexists(folder / found) else path
        size, mtime_ns = get_size_and_mtime(folder / path) if path else (None, None)
        return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=mtime_ns)

    def _require_columns(self, file: str) -> None:
        names = ("key_column", "label_column", "text_column", "image_column")
        columns = {f"dataset.{name}": column for name in names if (column := getattr(self._config, name))}
        if self._images:
            del columns["dataset.image_column"]
        require_columns(self._tables.open(file), self._config.source, columns, self._config.encoding)
