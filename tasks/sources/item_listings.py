"""Keep the items of large files, so that a file is listed once per state: tar shards, tables with images.

A listing is a Parquet file under the root. Its name is a digest of the file's state and of what the source reads, so a
listing that exists is right, and all of them may be deleted.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item

LISTING_VERSION = 1  # raise it when a source lists the same file otherwise
SCHEMA = pa.schema(
    {name: pa.string() for name in ("key", "label", "text", "path", "content_digest", "fault", "skipped")}
    | {name: pa.int64() for name in ("size", "mtime_ns", "count")}
)
ITEM_FIELDS = ("key", "label", "text", "path", "size", "mtime_ns", "fault", "content_digest")
# A file modified less than this before it was listed may change again within one tick of the file system's clock.
MTIME_MARGIN_NS = 2_000_000_000


@dataclass(frozen=True)
class FileState:
    """A file and what changes with its content.

    Attributes:
        path: Its path relative to the image root.
        size: Its size in bytes.
        mtime_ns: Its modification time in nanoseconds.
        version: What else changes with its content, such as an ETag.
    """

    path: str
    size: int
    mtime_ns: int
    version: str | None = None


@dataclass(frozen=True)
class Skipped:
    """Entries of a file that are no items, by their kind."""

    kind: str
    count: int = 1


class UnreadableFile(Exception):
    """A file that cannot be read now; the message says why."""


Entry = Item | Skipped


class ItemListings:
    """The listings of one source.

    Args:
        root: The storage root.
        source: The kind of source.
        settings: What its items depend on besides the files; a JSON value.
        relist: List every file again.
    """

    def __init__(self, root: Root, source: str, settings: object, *, relist: bool = False) -> None:
        self._root, self._relist = root, relist
        self._folder = root.source(f"{source}-listings", json_digest([LISTING_VERSION, settings])[:32])

    def read(self, files: Iterable[FileState], list_file: Callable[[FileState], Iterator[Entry]]) -> Iterator[Entry]:
        """Yield the entries of all files, and list those that are new or have changed. A file that cannot be read is a reject.

        The listings of other files and states are removed at the end.
        """
        used = set()
        for file in files:
            listing = self._folder / f"{json_digest(asdict(file))[:32]}.parquet"
            try:
                if self._relist or parquet.find_parquet_error(listing):
                    entries = list_file(file)
                    if not file.version and file.mtime_ns > time.time_ns() - MTIME_MARGIN_NS:
                        yield from entries
                        continue
                    with self._root.replace_atomically(listing) as temporary:
                        parquet.write_parquet(temporary, SCHEMA, _iterate_batches(entries))
            except UnreadableFile as error:
                yield Item(key=file.path, fault=f"the file cannot be read: {error}")
                continue
            used.add(listing.name)
            for batch in parquet.read_batches(listing):
                yield from map(_make_entry, batch.to_pylist())
        for path in self._root.list_files(self._folder, "*.parquet"):
            if path.name not in used:
                self._root.remove(path)


def _iterate_batches(entries: Iterator[Entry]) -> Iterator[pa.RecordBatch]:
    rows = map(_make_row, entries)
    while batch := list(itertools.islice(rows, parquet.BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(batch, schema=SCHEMA)


def _make_row(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Skipped):
        return {"skipped": entry.kind, "count": entry.count}
    return {name: getattr(entry, name) for name in ITEM_FIELDS}


def _make_entry(row: dict[str, Any]) -> Entry:
    return Skipped(row["skipped"], row["count"]) if row["skipped"] else Item(**{name: row[name] for name in ITEM_FIELDS})
