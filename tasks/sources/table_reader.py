"""Read configured columns of a Parquet, CSV or JSON-lines file as text, in bounded batches.

CSV files have a header, commas and double quotes, and are UTF-8. CSV and JSON values are not converted: `01` stays
`01`, and a date keeps its text.
"""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.errors import InputError

TableFormat = Literal["parquet", "csv", "jsonl"]

FORMAT_DESCRIPTIONS: dict[TableFormat, str] = {
    "parquet": "a Parquet file",
    "csv": "comma-separated values in UTF-8 with a header",
    "jsonl": "one JSON object per line, in UTF-8",
}


def require_columns(file: Path, table_format: TableFormat, columns: Mapping[str, str], temp_dir: Path) -> None:
    """Raise InputError unless the file has the columns, each of a type that can be read as text.

    Args:
        file: The table. A JSON column must occur in its first 20,480 lines.
        table_format: The file's format.
        columns: The setting that names a column -> the column's name.
        temp_dir: A folder for DuckDB's temporary files.
    """
    types = _read_column_types(file, table_format, temp_dir)
    for setting, column in columns.items():
        if column not in types:
            raise _build_missing_column_error(file, setting, column, list(types))
        if types[column].startswith(("STRUCT", "MAP", "UNION", "BLOB")) or types[column].endswith("]"):
            raise InputError(
                f"the column {column!r} does not hold text",
                where=f"{setting}, {file}",
                expected="text, numbers, or the path of an image",
                got=types[column].split("(")[0],
                next_step=f"choose another column in {setting}, or store this one as text",
            )


def list_columns(file: Path, table_format: TableFormat, temp_dir: Path) -> list[str]:
    """List the columns of a file. A JSON column must occur in its first 20,480 lines."""
    return list(_read_column_types(file, table_format, temp_dir))


def read_text_rows(
    file: Path, table_format: TableFormat, columns: Sequence[str | None], temp_dir: Path
) -> Iterator[tuple[str | None, ...]]:
    """Yield every row's columns as text, in the file's order. Raises InputError if the file is malformed.

    Args:
        file: The table.
        table_format: Its format.
        columns: The columns' names; None gives a column of nulls.
        temp_dir: A folder for DuckDB's temporary files.
    """
    cells = ", ".join(f"{_build_cell_sql(column, table_format)} AS c{number}" for number, column in enumerate(columns))
    names = [column for column in columns if column]
    with (
        _translate_read_errors(file, table_format),
        parquet.query(f"SELECT {cells} FROM {_build_scan_sql(file, table_format, names)}", temp_dir=temp_dir) as batches,
    ):
        for batch in batches:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _read_column_types(file: Path, table_format: TableFormat, temp_dir: Path) -> dict[str, str]:
    with _translate_read_errors(file, table_format):
        description = parquet.fetch_rows(f"DESCRIBE SELECT * FROM {_build_scan_sql(file, table_format)}", temp_dir=temp_dir)
    return {name: kind for name, kind, *_ in description}


def _build_cell_sql(column: str | None, table_format: TableFormat) -> str:
    if column is None:
        return "CAST(NULL AS VARCHAR)"
    return f"{_quote_identifier(column)}->>'$'" if table_format == "jsonl" else f"CAST({_quote_identifier(column)} AS VARCHAR)"


def _build_scan_sql(file: Path, table_format: TableFormat, columns: Sequence[str] = ()) -> str:
    # DuckDB treats a path as a pattern.
    path = "'" + glob.escape(str(file)).replace("'", "''") + "'"
    match table_format:
        case "parquet":
            return f"read_parquet({path})"
        case "csv":
            # DuckDB guesses missing options from the first rows, and would drop lines with # or above the header.
            dialect = """header = true, all_varchar = true, delim = ',', quote = '"', escape = '"', comment = '', skip = 0"""
            return f"read_csv({path}, {dialect})"
        case "jsonl":
            # As JSON, a value keeps its text. With types inferred by DuckDB, a date would be rewritten.
            types = ", ".join(f"{_quote_identifier(column)}: 'JSON'" for column in dict.fromkeys(columns))
            return f"read_json({path}, format = 'newline_delimited'" + (f", columns = {{{types}}})" if columns else ")")


def _quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _translate_read_errors(file: Path, table_format: TableFormat) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise InputError(
            "the table cannot be read",
            where=str(file),
            expected=FORMAT_DESCRIPTIONS[table_format],
            got=" ".join(str(error).split())[:300],
            next_step="fix the file, or dataset.source if it has another format",
        ) from None


def _build_missing_column_error(file: Path, setting: str, column: str, existing: list[str]) -> InputError:
    names_by_casefold = {name.casefold(): name for name in existing}
    nearest = difflib.get_close_matches(column.casefold(), names_by_casefold, n=1)
    return InputError(
        f"the table has no column {column!r}",
        where=f"{setting}, {file}",
        expected="one of its columns: " + ", ".join(existing),
        got=column,
        next_step=(f"did you mean {names_by_casefold[nearest[0]]!r}? " if nearest else "") + f"correct {setting}, or add the column",
    )
