"""Read configured columns of a Parquet, CSV or JSON-lines file as text, row by row.

Nothing is inferred: columns are found by their exact names in the file itself, and values are not converted. A CSV cell or
a JSON number keeps its text: `01` stays `01`, and a date keeps its text. What is missing is None: null, NaN and NaT, an
empty CSV cell, MySQL's `\\N`. `nan` written as text is a text. A whole number in a Parquet column of floats reads `1`.

A row that cannot be read is a row with a fault, so that it costs one item and not the build. An unreadable file is an error.
"""

from __future__ import annotations

import csv
import difflib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.errors import InputError
from indexmill.tasks.sources.csv_table import read_csv, read_header_names
from indexmill.tasks.sources.json_lines import list_json_keys, read_json_lines
from indexmill.tasks.sources.table_cells import TableRow, convert_arrow_column
from indexmill.tasks.sources.text_lines import escape_text, find_invalid_text, shorten

TableFormat = Literal["parquet", "csv", "jsonl"]

FORMAT_DESCRIPTIONS: dict[TableFormat, str] = {
    "parquet": "a Parquet file",
    "csv": "separated values with a header",
    "jsonl": "one JSON object per line",
}
MAX_SHOWN_COLUMNS = 60
MAX_SHOWN_CHARACTERS = 60  # of a column's name


def require_columns(file: Path, table_format: TableFormat, columns: Mapping[str, str], encoding: str | None = None) -> None:
    """Raise InputError unless the file has the columns, each once and of a type that can be read as text.

    Args:
        file: The table. JSON lines are read until every column has occurred.
        table_format: The file's format.
        columns: The setting that names a column -> the column's name.
        encoding: The encoding of CSV and JSON lines.
    """
    names, types = _read_columns(file, table_format, set(columns.values()), encoding)
    counts = Counter(names)
    for setting, column in columns.items():
        if not counts[column]:
            raise _build_missing_column_error(file, setting, column, names)
        if counts[column] > 1:
            raise InputError(
                f"the table has {counts[column]} columns named {column!r}",
                where=f"{setting}, {file}",
                expected="columns with different names",
                got=_list_names(names),
                next_step="rename or remove all but one of them",
            )
        if column in types and (pa.types.is_nested(types[column]) or "binary" in str(types[column])):
            raise InputError(
                f"the column {column!r} does not hold text",
                where=f"{setting}, {file}",
                expected="text, numbers, the path of an image, or in dataset.image_column of Parquet its bytes",
                got=str(types[column]).split("<", maxsplit=1)[0],
                next_step=f"choose another column in {setting}, or store this one as text",
            )


def list_columns(file: Path, table_format: TableFormat, wanted: set[str]) -> list[str]:
    """List the columns of a file. Of JSON lines, those up to the line where all `wanted` ones have occurred."""
    return _read_columns(file, table_format, wanted, None)[0]


def _read_columns(
    file: Path, table_format: TableFormat, wanted: set[str], encoding: str | None
) -> tuple[list[str], dict[str, pa.DataType]]:
    """Return the columns' names, and the types of those that have any."""
    with translate_read_errors(file, table_format):
        match table_format:
            case "parquet":
                with pq.ParquetFile(file) as table:
                    schema = table.schema_arrow
                return schema.names, {field.name: field.type for field in schema}
            case "csv":
                return read_header_names(file, wanted, encoding), {}
            case "jsonl":
                return list_json_keys(file, wanted, encoding), {}


def read_rows(file: Path, table_format: TableFormat, columns: Sequence[str | None], encoding: str | None = None) -> Iterator[TableRow]:
    """Yield every row's columns as text, in the file's order. Raises InputError if the file as a whole is unreadable.

    Args:
        file: The table.
        table_format: Its format.
        columns: The columns' names; None gives a column of nulls. A column that the file lacks is null too.
        encoding: The encoding of CSV and JSON lines; by default UTF-8, or what the file's start says.
    """
    with translate_read_errors(file, table_format):
        match table_format:
            case "parquet":
                rows = _read_parquet(file, columns)
            case "csv":
                rows = read_csv(file, columns, encoding)
            case "jsonl":
                rows = read_json_lines(file, columns, encoding)
        for row in rows:
            fault = row.fault or next(filter(None, (find_invalid_text(cell) for cell in row.cells if cell)), None)
            yield TableRow(row.line, tuple(None for _ in columns), escape_text(fault)) if fault else row


def _read_parquet(file: Path, columns: Sequence[str | None]) -> Iterator[TableRow]:
    with pq.ParquetFile(file) as table:
        names = [name for name in dict.fromkeys(columns) if name in table.schema_arrow.names]
        rows = itertools.count(1)
        for batch in table.iter_batches(batch_size=parquet.BATCH_ROWS, columns=names):
            by_name = {name: convert_arrow_column(batch.column(name)) for name in names}
            empty: list[str | None] = [None] * batch.num_rows
            cells = [by_name.get(name, empty) for name in columns]
            yield from (TableRow(next(rows), row) for row in zip(*cells, strict=True))


@contextmanager
def translate_read_errors(file: Path, table_format: TableFormat) -> Iterator[None]:
    """Turn the errors of libraries about a table into InputError."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, LookupError, OverflowError, csv.Error) as error:
        raise InputError(
            "the table cannot be read",
            where=str(file),
            expected=FORMAT_DESCRIPTIONS[table_format],
            got=shorten(str(error)) or type(error).__name__,
            next_step="fix the file, or dataset.source if it has another format",
        ) from None


def _build_missing_column_error(file: Path, setting: str, column: str, existing: list[str]) -> InputError:
    names_by_casefold = {name.casefold(): name for name in existing}
    nearest = difflib.get_close_matches(column.casefold(), names_by_casefold, n=1)
    return InputError(
        f"the table has no column {column!r}",
        where=f"{setting}, {file}",
        expected="one of its columns: " + _list_names(existing),
        got=column,
        next_step=(f"did you mean {names_by_casefold[nearest[0]]!r}? " if nearest else "") + f"correct {setting}, or add the column",
    )


def _list_names(names: list[str]) -> str:
    shown = ", ".join(shorten(name, MAX_SHOWN_CHARACTERS) for name in names[:MAX_SHOWN_COLUMNS])
    return shown + (f" and {len(names) - MAX_SHOWN_COLUMNS:,} more" if len(names) > MAX_SHOWN_COLUMNS else "")
