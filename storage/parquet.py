"""Parquet in bounded batches, and DuckDB for everything that sorts, joins or counts.

No function holds a whole table in memory: readers yield batches, writers consume them, and DuckDB spills to disk past its memory limit."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage.digests import rows_digest

if TYPE_CHECKING:
    import polars as pl

BATCH_ROWS = 8192
MEMORY_LIMIT = "1GB"


@contextmanager
def query(
    sql: str, values: Mapping[str, Any] | None = None, *, temp_dir: Path, batch_rows: int = BATCH_ROWS, **tables: pa.RecordBatchReader
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Run one SELECT and yield its rows as Arrow batches.

    tables: Arrow streams that the SQL may read by name. temp_dir: the folder for what does not fit into MEMORY_LIMIT.
    """
    with _connect(temp_dir) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        yield iter(connection.sql(sql, params=dict(values or {})).to_arrow_reader(batch_rows))


def fetch_rows(sql: str, values: Mapping[str, Any] | None = None, *, temp_dir: Path) -> list[tuple[Any, ...]]:
    """All rows of a small result: counts, aggregates, a page of items."""
    with query(sql, values, temp_dir=temp_dir) as batches:
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as one Parquet file (zstd); the number of rows."""
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)
            count += batch.num_rows
    return count


class ParquetRowWriter:
    """A Parquet file that grows by rows."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Add rows; a column that a row lacks is null."""
        if rows:
            self._file.write_batch(pa.RecordBatch.from_pylist(rows, schema=self._schema))


@contextmanager
def open_writer(path: Path, schema: pa.Schema) -> Iterator[ParquetRowWriter]:
    """Open a Parquet file (zstd) to be written bit by bit."""
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        yield ParquetRowWriter(file, schema)


def read_batches(path: Path, columns: list[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in their order, `batch_rows` at a time."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=columns)


def find_parquet_error(path: Path, *, thorough: bool = False) -> str:
    """Why a Parquet file is not there or cannot be read, empty when it can: by its footer; thorough: by every page and its checksum."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches(batch_size=BATCH_ROWS) if thorough else ():
                pass
    except (OSError, pa.ArrowException) as problem:
        return f"{path}: {problem}"
    return ""


def compute_digest(path: Path, columns: list[str] | None = None) -> str:
    """SHA-256 over the rows of a Parquet file in their order: the same however the file was written."""
    return rows_digest(row for batch in read_batches(path, columns) for row in zip(*batch.to_pydict().values(), strict=True))


def to_polars(batches: Iterable[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    """The same batches as polars frames."""
    import polars as pl  # here: asking an index needs none of it, and should be quick

    for batch in batches:
        yield pl.DataFrame(pl.from_arrow(batch))


def copy_query(sql: str, target: Path, *, temp_dir: Path) -> int:
    """Write the rows of one SELECT as a Parquet file (zstd); the number of rows."""
    with _connect(temp_dir) as connection:
        connection.execute(f"COPY ({sql}) TO '{escape_sql(target)}' (FORMAT parquet, COMPRESSION zstd)")
    return int(pq.read_metadata(target).num_rows)


def escape_sql(path: Path) -> str:
    """A path as it stands between the quotes of an SQL literal."""
    return str(path).replace("'", "''")


def scan_sql(*paths: Path, options: str = "") -> str:
    """Parquet files as a table for SQL. DuckDB takes a path for a pattern, so what is special in patterns and literals is escaped."""
    literals = ", ".join("'" + glob.escape(str(path)).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{literals}]{', ' + options if options else ''})"


@contextmanager
def _connect(temp_dir: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(temp_dir)})
    try:
        yield connection
    finally:
        connection.close()
