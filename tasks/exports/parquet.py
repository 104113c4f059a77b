"""Parquet files with metadata and vectors, as embedding-reader and autofaiss read them (column `embedding`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexmill.storage import parquet
from indexmill.tasks.exports.files import divide_batches
from indexmill.tasks.exports.rows import SnapshotRows
from indexmill.tasks.progress import Advance


def write_files(rows: SnapshotRows, folder: Path, advance: Advance, *, final: Path | None) -> dict[str, Any]:  # noqa: ARG001
    """Write `part-00000.parquet` and so on (`tasks.exports.files.WriteFiles`)."""
    for number, size, batches in divide_batches(rows.read(), rows.count):
        parquet.write_parquet(folder / f"part-{number:05d}.parquet", rows.schema, batches)
        advance(size)
    return {"embedding_column": "embedding"}
