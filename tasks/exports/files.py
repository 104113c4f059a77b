"""Exports in files: the target, and what its formats share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.exports import ExportFiles
from indexmill.tasks.exports.base import ExportCounts
from indexmill.tasks.exports.rows import SnapshotRows
from indexmill.tasks.progress import Advance

ROWS_PER_FILE = 100_000
METADATA_FILE = "metadata.parquet"


class WriteFiles(Protocol):
    """Writes the files of a format."""

    def __call__(self, rows: SnapshotRows, folder: Path, advance: Advance, *, final: Path | None) -> dict[str, Any]:
        """Write the files of a snapshot.

        Args:
            rows: The rows of the snapshot.
            folder: An empty folder.
            advance: Takes the number of rows just written.
            final: The path that the folder will have; None in an object store.

        Returns:
            What `_export.json` says besides what it says for every format.
        """


class FilesTarget:
    """A folder or a prefix in an object store that holds an export in files."""

    def __init__(self, format_name: str, files: ExportFiles, write_files: WriteFiles) -> None:
        self._format, self._files, self._write_files = format_name, files, write_files

    def find_snapshot_id(self) -> str | None:
        """Return the snapshot that the target holds; None if it holds none in this format."""
        description = self._files.read_description()
        return str(description["snapshot_id"]) if description and description["format"] == self._format else None

    def write(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        """Write all files, and put them in the place of the old ones."""
        manifest = rows.manifest
        description: dict[str, Any] = {
            "format": self._format,
            "name": manifest.name,
            "snapshot_id": manifest.snapshot_id,
            "rows": rows.count,
            "dim": manifest.dim,
            "metric": manifest.metric,
            "fingerprint": manifest.fingerprint,
            "image_root": manifest.image_root,
        }
        with self._files.replace(description) as folder:
            description.update(self._write_files(rows, folder, advance, final=self._files.path))  # it is written when the block ends
        return ExportCounts(rows.count)


def write_metadata(rows: SnapshotRows, folder: Path) -> None:
    """Write the rows without their vectors to `metadata.parquet`, for formats whose files hold ids only."""
    parquet.write_parquet(folder / METADATA_FILE, rows.metadata_schema, rows.read_metadata())


def divide_batches(batches: Iterable[pa.RecordBatch], count: int) -> Iterator[tuple[int, int, Iterator[pa.RecordBatch]]]:
    """Divide batches among files of ROWS_PER_FILE rows: yield each file's number, its rows, and its batches.

    The batches of a file must be used up before the next file is asked for.
    """
    remaining = iter(batches)
    for number, start in enumerate(range(0, count, ROWS_PER_FILE)):
        size = min(ROWS_PER_FILE, count - start)
        rest: list[pa.RecordBatch] = []
        yield number, size, _take_rows(remaining, size, rest)
        remaining = chain(rest, remaining)


def _take_rows(batches: Iterator[pa.RecordBatch], count: int, rest: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield `count` rows; put what is left of the last batch into `rest`."""
    while count:
        batch = next(batches)
        if batch.num_rows > count:
            rest.append(batch.slice(count))
        yield batch.slice(0, count)
        count -= min(count, batch.num_rows)
