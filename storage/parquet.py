"""Read and write Parquet in bounded batches, and use DuckDB to sort, join and count.

No function holds a whole table in memory: readers yield batches, writers consume them, and DuckDB spills to disk above
its memory limit."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage.query_database import connect
from indexmill.storage.table_digest import table_digest

if TYPE_CHECKING:
    import polars as pl

BATCH_ROWS = 8192


@contextmanager
def query(
    sql: str, values: Mapping[str, Any] | None = None, *, temp_dir: Path, batch_rows: int = BATCH_ROWS, **tables: pa.RecordBatchReader
) -> Iterator[Iterator[pa.RecordBatch]]:
    """Run one SELECT and yield an iterator over its rows in Arrow batches.

    Args:
        sql: The query.
        values: The values of its `$name` parameters.
        temp_dir: Where DuckDB spills data that exceeds `query_database.MEMORY_LIMIT`.
        batch_rows: The maximum number of rows per batch.
        tables: Arrow streams that the query may read by name.
    """
    with connect(temp_dir) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        with connection.sql(sql, params=dict(values or {})).to_arrow_reader(batch_rows) as reader:  # frees what an abandoned query holds
            yield iter(reader)


def fetch_rows(sql: str, values: Mapping[str, Any] | None = None, *, temp_dir: Path) -> list[tuple[Any, ...]]:
    """Run one SELECT with a small result (counts, aggregates, a page of items) and return all its rows."""
    with query(sql, values, temp_dir=temp_dir) as batches:
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches as one Parquet file (zstd) and return the number of rows."""
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)
            count += batch.num_rows
    return count


class ParquetRowWriter:
    """Writes a Parquet file from rows."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows. A column that a row lacks is null."""
        if rows:
            self._file.write_batch(pa.RecordBatch.from_pylist(rows, schema=self._schema))


@contextmanager
def open_writer(path: Path, schema: pa.Schema) -> Iterator[ParquetRowWriter]:
    """Open a Parquet file (zstd) that is written piece by piece."""
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        yield ParquetRowWriter(file, schema)


def read_batches(path: Path, columns: list[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file in order, `batch_rows` at a time."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=columns)


def find_parquet_error(path: Path, *, thorough: bool = False) -> str:
    """Return why a Parquet file cannot be read; empty when it can.

    Args:
        path: The file.
        thorough: Read every page and verify its checksum, instead of the footer alone.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches(batch_size=BATCH_ROWS) if thorough else ():
                pass
    except (OSError, pa.ArrowException) as error:
        return f"{path}: {error}"
    return ""


def compute_digest(path: Path, columns: list[str] | None = None) -> str:
    """Return the digest of a Parquet file's rows in order (`table_digest`).

    It does not depend on compression, row groups or encodings. Memory: one block of rows.
    """
    with pq.ParquetFile(path) as file:
        names = columns or file.schema_arrow.names
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
        batches = (batch.select(names) for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names))
        return table_digest(schema, batches)


def to_polars(batches: Iterable[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    """Convert Arrow batches to polars frames."""
    import polars as pl  # slow to import, and searching does not need it

    for batch in batches:
        yield pl.DataFrame(pl.from_arrow(batch))


def copy_query(sql: str, target: Path, *, temp_dir: Path) -> int:
    """Write the rows of one SELECT to a Parquet file (zstd) and return their number."""
    with connect(temp_dir) as connection:
        connection.execute(f"COPY ({sql}) TO '{escape_sql(target)}' (FORMAT parquet, COMPRESSION zstd)")
    return int(pq.read_metadata(target).num_rows)


def escape_sql(path: Path) -> str:
    """Escape a path for use between the quotes of an SQL literal."""
    return str(path).replace("'", "''")


def scan_sql(*paths: Path, options: str = "") -> str:
    """Return the SQL table function that reads these Parquet files.

    DuckDB treats a path as a glob pattern, so both pattern and quote characters are escaped. It would also let folders
    above, named `column=value`, replace columns of the files.
    """
    literals = ", ".join("'" + _escape_pattern(str(path)).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{literals}], hive_partitioning=false{', ' + options if options else ''})"


def _escape_pattern(path: str) -> str:
    """Escape pattern characters, but not beside a backslash, which DuckDB does not match in patterns."""
    return path if "\\" in path else glob.escape(path)
