"""A LanceDB table with a vector index. After the first export, only the rows that changed are written, in one commit.

Each commit is a version of the table, so readers find all of the old snapshot or all of the new one. When a snapshot is
complete and indexed, its version gets the tag of its id (`table.checkout("00003-…")`). Rows that are not indexed yet are
searched without the index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.configs.exports import ExportConfig
from indexmill.storage.errors import InputError
from indexmill.tasks.exports.base import ExportCounts, import_client, translate_errors
from indexmill.tasks.exports.changes import STORED_SCHEMA, RowChanges, find_changes
from indexmill.tasks.exports.rows import SnapshotRows
from indexmill.tasks.progress import Advance

T = TypeVar("T")

DISTANCES: dict[str, Literal["cosine", "dot", "l2"]] = {"cosine": "cosine", "ip": "dot", "l2": "l2"}
# Above these, a new table is cheaper than a merge, or the statement that removes rows would be too long.
MAX_CHANGED_FRACTION, MAX_REMOVED = 0.5, 50_000
MIN_INDEXED_ROWS = 256  # LanceDB trains an index on at least as many


class LanceTarget:
    """One table of a LanceDB database."""

    def __init__(self, database: Any, name: str) -> None:
        self._database, self._name = database, name
        self._table: Any = None
        with suppress(ValueError):  # there is no such table
            self._table = database.open_table(name)
        if self._table is not None and "row_digest" not in self._table.schema.names:
            raise InputError(
                "this table was not written by an export, so it is not replaced",
                where=f"{database.uri}, table {name}",
                next_step="choose another with --table or publish.export[].table",
            )

    def find_snapshot_id(self) -> str | None:
        """Return the snapshot that the newest version of the table has the tag of."""
        if self._table is None:
            return None
        tags = self._table.tags.list()
        return next((tag for tag, value in tags.items() if value["version"] == self._table.version), None)

    def write(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        """Write the rows that changed, or a new table if most have changed, and tag the result."""
        changes = self._find_changes(rows)
        if changes is None or changes.written_count > MAX_CHANGED_FRACTION * rows.count or changes.removed_count > MAX_REMOVED:
            counts = ExportCounts(rows.count)
            create = partial(self._database.create_table, self._name, schema=rows.schema, mode="overwrite")
            self._table = _write_batches(rows, rows.read(), advance, create)
            self._create_indexes(rows)
        else:
            counts = ExportCounts(changes.written_count, changes.removed_count)
            if any(counts):
                self._merge(rows, changes, advance)
        self._tag(rows.manifest.snapshot_id)
        return counts

    def _find_changes(self, rows: SnapshotRows) -> RowChanges | None:
        """Compare the table with the snapshot; None if its columns are others."""
        if self._table is None or self._table.schema.remove_metadata() != rows.schema:
            return None
        stored = self._table.search().select(STORED_SCHEMA.names).to_batches(8192)
        return find_changes(rows, (batch.select(STORED_SCHEMA.names) for batch in stored))

    def _merge(self, rows: SnapshotRows, changes: RowChanges, advance: Advance) -> None:
        merge = self._table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
        if changes.removed_count:
            ids = pq.read_table(changes.removed)["item_id"].to_pylist()  # at most MAX_REMOVED
            merge = merge.when_not_matched_by_source_delete(f"item_id IN ({', '.join(map(str, ids))})")
        _write_batches(rows, rows.read(changes.written), advance, merge.execute)

    def _create_indexes(self, rows: SnapshotRows) -> None:
        from lancedb.index import BTree, IvfHnswSq

        self._table.create_index("item_id", config=BTree())
        if rows.count >= MIN_INDEXED_ROWS:
            self._table.create_index("embedding", config=IvfHnswSq(distance_type=DISTANCES[rows.manifest.metric]))

    def _tag(self, snapshot_id: str) -> None:
        """Index the new rows, remove versions older than a week, and move the tag to the newest version."""
        tags = self._table.tags
        for tag in list(tags.list()):  # a version with a tag is never removed
            tags.delete(tag)
        self._table.optimize()
        tags.create(snapshot_id, self._table.version)


@contextmanager
def open_target(config: ExportConfig, table: str) -> Iterator[LanceTarget]:
    """Open the database at a directory or an object-store URL."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns on standard error that a new table is new
    lancedb = import_client("lancedb", "lancedb")
    options = {}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = "true"
    with translate_errors(config, RuntimeError, ValueError, pa.ArrowException):
        yield LanceTarget(lancedb.connect(config.to, storage_options=options if config.is_url else None), table)


def _write_batches(rows: SnapshotRows, batches: Iterator[pa.RecordBatch], advance: Advance, write: Callable[[Any], T]) -> T:
    """Return what `write` returns for a reader of the batches.

    An error while they are read is raised as it is: LanceDB would wrap it in one of its own.
    """
    errors: list[BaseException] = []

    def iterate() -> Iterator[pa.RecordBatch]:
        try:
            for batch in batches:
                yield batch
                advance(batch.num_rows)
        except BaseException as error:
            errors.append(error)
            raise

    try:
        return write(pa.RecordBatchReader.from_batches(rows.schema, iterate()))
    except Exception:
        if errors:
            raise errors[0] from None
        raise
