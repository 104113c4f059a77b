"""The rows of a query over a database.

<root>/sources/<slug>/images/ab/<content digest>   images that the rows hold as bytes
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from typing import Any

from indexmill.configs.datasets import SqlDatasetConfig
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.names import is_relative_inside
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.storage.urls import is_url
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.downloads import list_with_nearest
from indexmill.tasks.sources.image_downloads import ImageDownloads, RemoteImage
from indexmill.tasks.sources.image_files import get_size_and_mtime
from indexmill.tasks.sources.sql_reader import ResultBatch, SqlReader
from indexmill.tasks.sources.table_cells import format_number, is_nan
from indexmill.tasks.sources.table_files import make_remote_item
from indexmill.tasks.sources.text_lines import find_invalid_text

TEXT_BATCH_ROWS = 2000
IMAGE_BATCH_ROWS = 16  # rows may hold whole images
ROLES = ("key", "label", "text", "image")
DIGEST_BYTES = 32


class _UnusableValue(Exception):
    """A value that is no text."""


class SqlSource:
    """The rows of a query, in any order.

    Unusable rows are listed for validation to reject: one with a value that is no text, or an image that is neither bytes nor a
    URL nor a path below `image_folder`.

    Raises:
        InputError: The database does not exist, or its driver is not installed.
    """

    image_root: Path | None

    def __init__(self, config: SqlDatasetConfig, root: Root) -> None:
        self._config, self._root = config, root
        self._reader = SqlReader(config)
        self.modality: Modality = "image" if config.image_column else "text"
        self.labeled = config.label_column is not None
        self.downloads: ImageDownloads | None = None
        self.image_root = None
        if config.image_column and config.image_folder:
            self.image_root = Path(config.image_folder).expanduser().resolve()
            if not self.image_root.is_dir():
                raise InputError("the folder of images does not exist", where="dataset.image_folder", got=config.image_folder)
        elif config.image_column:
            self.downloads = ImageDownloads(root, f"{config.url}/{json_digest(config.query)[:8]}", config.downloads)
            self.image_root = self.downloads.folder

    def compute_revision(self) -> str:
        """Return a digest of what `revision_query` gives, or else of all rows in any order.

        Without `revision_query`, images count by content, or by size and modification time where they are files, and
        downloaded images by how often one has changed; their servers are asked here when that is due.
        """
        identity = [self._config.query, self._config.image_folder]
        if self._config.revision_query:
            query = self._config.revision_query
            batches = self._reader.read(query, batch_rows=TEXT_BATCH_ROWS, setting="dataset.revision_query")
            return json_digest([identity, [[str(value) for value in row] for batch in batches for row in batch.rows]])
        rows = _UnorderedDigest()
        images = self._iterate_images(rows)
        changes = self.downloads.recheck(images) if self.downloads else sum(0 for _ in images)
        return json_digest([identity, rows.hexdigest(), changes])

    def items(self) -> Iterator[Item]:
        """Yield the rows. Images that are bytes are written below the root first, unless they are there."""
        columns = {role: getattr(self._config, f"{role}_column") for role in ROLES}
        batches = self._reader.read(self._config.query, batch_rows=IMAGE_BATCH_ROWS if columns["image"] else TEXT_BATCH_ROWS)
        without_key = itertools.count(1)
        for batch in batches:
            positions = _find_columns(batch, columns)
            for row in batch.rows:
                values = {role: row[position] for role, position in positions.items()}
                if values["key"] is None:
                    yield Item(key=f"row without a key, number {next(without_key)}", fault="the row has no key")
                    continue
                yield self._make_item(values)

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: the rows are not scored."""
        return iter(())

    def _iterate_images(self, rows: _UnorderedDigest) -> Iterator[RemoteImage]:
        """Add all rows to a digest, and yield the images that are downloaded."""
        for item in self.items():
            file = (item.size, item.mtime_ns) if self._config.image_folder else ()
            rows.add(json.dumps([item.key, item.label, item.text, item.url or item.path, item.fault, *file]))
            if item.url and item.path:
                yield RemoteImage(item.url, item.path)

    def _make_item(self, values: dict[str, Any]) -> Item:
        key = str(values["key"])
        try:
            key = _convert_text("key", values["key"]) or ""
            label, text = (_convert_text(role, values.get(role)) for role in ("label", "text"))
            if self.image_root is None:
                return Item(key=key, label=label, text=text or "")
            return self._make_image_item(values["image"], key, label, text)
        except _UnusableValue as error:
            return Item(key=key.encode(errors="backslashreplace").decode(), fault=str(error))

    def _make_image_item(self, value: object, key: str, label: str | None, text: str | None) -> Item:
        if value is None:
            return Item(key=key, label=label, text=text)
        if isinstance(value, bytes | bytearray | memoryview) and self.downloads:
            path = self._write_image(bytes(value), self.downloads)
        elif isinstance(value, str) and self.downloads:
            if not is_url(value):
                raise _UnusableValue(f"the image {value[:100]!r} is no URL; set dataset.image_folder for paths")
            return make_remote_item(self.downloads, None, "", value, key=key, label=label, text=text)
        elif isinstance(value, str):
            path = normpath(value)
            if not is_relative_inside(path) or "\0" in path:
                return Item(key=key, label=label, text=text)  # rejected as `missing_path`, as in a table
        else:
            raise _UnusableValue(f"the image is {type(value).__name__}, not bytes, a URL or a path")
        size, mtime_ns = get_size_and_mtime(self.image_root / path) if self.image_root else (None, None)
        return Item(key=key, label=label, text=text, path=path, size=size, mtime_ns=mtime_ns)

    def _write_image(self, content: bytes, downloads: ImageDownloads) -> str:
        if len(content) > self._config.downloads.max_bytes:
            raise _UnusableValue(f"the image has {len(content):,} bytes, more than dataset.downloads.max_bytes")
        name = content_digest(content)
        path = downloads.folder / name[:2] / name
        if not path.is_file():
            with self._root.replace_atomically(path) as temporary:
                temporary.write_bytes(content)
        return f"{name[:2]}/{name}"


class _UnorderedDigest:
    """A digest of rows in any order, which counts how often each occurs: the sum of the rows' digests."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, row: str) -> None:
        self._sum += int.from_bytes(hashlib.blake2b(row.encode(), digest_size=DIGEST_BYTES).digest(), "big")

    def hexdigest(self) -> str:
        return f"{self._sum % (1 << 8 * DIGEST_BYTES):x}"


def _find_columns(batch: ResultBatch, columns: dict[str, str | None]) -> dict[str, int]:
    """Return role -> position in the result. Raises InputError unless the result has each column once."""
    positions = {}
    for role, column in columns.items():
        if column is not None:
            if (count := batch.columns.count(column)) != 1:
                raise InputError(
                    "the result has no such column" if not count else f"the result has {count} columns of this name",
                    where=f"dataset.{role}_column = {column}",
                    expected="a column of dataset.query",
                    got=list_with_nearest(column, batch.columns),
                    next_step=f"correct dataset.{role}_column, or name the column in the query with AS",
                )
            positions[role] = batch.columns.index(column)
    return positions


def _convert_text(role: str, value: object) -> str | None:
    """Return a value as text. Raises _UnusableValue for lists, mappings, bytes and texts that cannot be stored."""
    if value is None or is_nan(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal | uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        raise _UnusableValue(f"the {role} is {type(value).__name__}, not a text")
    if fault := find_invalid_text(value):
        raise _UnusableValue(f"the {role} cannot be stored: {fault}")
    return value
