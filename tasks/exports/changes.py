"""Which rows a store lacks, and which it has too many: by id and digest, so that only these are written.

The store is asked for what it holds, because the snapshot that was exported last may have been removed since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.tasks.exports.rows import SnapshotRows

STORED_SCHEMA = pa.schema({"item_id": pa.int64(), "row_digest": pa.string()})


@dataclass(frozen=True)
class RowChanges:
    """Two Parquet files of `item_id`, and their numbers of rows."""

    written: Path
    written_count: int
    removed: Path
    removed_count: int


def find_changes(rows: SnapshotRows, stored: Iterable[pa.RecordBatch]) -> RowChanges:
    """Compare a snapshot with what a store holds.

    Args:
        rows: The rows of the snapshot.
        stored: The ids and digests in the store: batches of STORED_SCHEMA.

    Returns:
        The rows to write, which are new or different, and those to remove. The files are removed with `rows`.
    """
    before, written, removed = (rows.temp_dir / f"{name}.parquet" for name in ("stored", "written", "removed"))
    parquet.write_parquet(before, STORED_SCHEMA, stored)
    new_rows, stored_rows = parquet.scan_sql(rows.table), parquet.scan_sql(before)
    written_sql = f"SELECT n.item_id FROM {new_rows} n ANTI JOIN {stored_rows} s USING (item_id, row_digest) ORDER BY 1"
    removed_sql = f"SELECT s.item_id FROM {stored_rows} s ANTI JOIN {new_rows} n USING (item_id) ORDER BY 1"
    return RowChanges(
        written,
        parquet.copy_query(written_sql, written, temp_dir=rows.temp_dir),
        removed,
        parquet.copy_query(removed_sql, removed, temp_dir=rows.temp_dir),
    )
