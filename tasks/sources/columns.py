"""The columns of a Parquet, CSV or JSON-lines file that a config names, read as text in bounded batches.

CSV has a header, commas and double quotes, and is UTF-8. Nothing in CSV or JSON is guessed at: `01` stays `01`, and a date its text.
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

LAYOUTS: dict[TableFormat, str] = {
    "parquet": "a Parquet file",
    "csv": "comma-separated values in UTF-8 with a header",
    "jsonl": "one JSON object a line, in UTF-8",
}


def require_columns(file: Path, form: TableFormat, columns: Mapping[str, str], spill: Path) -> None:
    """Raise InputError unless the file has the columns, each of a type that reads as text. columns: who names it -> name.

    A JSON column must stand in one of the first 20,480 lines.
    """
    with _told(file, form):
        described = parquet.fetch_rows(f"DESCRIBE SELECT * FROM {_scan(file, form)}", spill=spill)
    types = {name: kind for name, kind, *_ in described}
    for who, column in columns.items():
        if column not in types:
            raise _no_column(file, who, column, list(types))
        if types[column].startswith(("STRUCT", "MAP", "UNION", "BLOB")) or types[column].endswith("]"):
            raise InputError(
                f"the column {column!r} does not hold text",
                where=f"{who}, {file}",
                expected="text, numbers, or the path of an image",
                got=types[column].split("(")[0],
                next_step=f"name another column in {who}, or write this one as text",
            )


def text_rows(file: Path, form: TableFormat, columns: Sequence[str | None], spill: Path) -> Iterator[tuple[str | None, ...]]:
    """The columns of every row as text, in the file's order; a column None is null. Raises InputError where the file is malformed."""
    cells = ", ".join(f"{_cell(column, form)} AS c{number}" for number, column in enumerate(columns))
    named = [column for column in columns if column]
    with _told(file, form), parquet.query(f"SELECT {cells} FROM {_scan(file, form, named)}", spill=spill) as batches:
        for batch in batches:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _cell(column: str | None, form: TableFormat) -> str:
    if column is None:
        return "CAST(NULL AS VARCHAR)"
    return f"{_quoted(column)}->>'$'" if form == "jsonl" else f"CAST({_quoted(column)} AS VARCHAR)"


def _scan(file: Path, form: TableFormat, columns: Sequence[str] = ()) -> str:
    # DuckDB takes a path for a pattern.
    path = "'" + glob.escape(str(file)).replace("'", "''") + "'"
    match form:
        case "parquet":
            return f"read_parquet({path})"
        case "csv":
            # What is not said here DuckDB finds out from the first rows, and lines that begin with # or stand above the header would go.
            dialect = """header = true, all_varchar = true, delim = ',', quote = '"', escape = '"', comment = '', skip = 0"""
            return f"read_csv({path}, {dialect})"
        case "jsonl":
            # As JSON, a value keeps the text it has; with types found by DuckDB a date would be rewritten.
            kinds = ", ".join(f"{_quoted(column)}: 'JSON'" for column in dict.fromkeys(columns))
            return f"read_json({path}, format = 'newline_delimited'" + (f", columns = {{{kinds}}})" if columns else ")")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _told(file: Path, form: TableFormat) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as problem:
        raise InputError(
            "the table cannot be read",
            where=str(file),
            expected=LAYOUTS[form],
            got=" ".join(str(problem).split())[:300],
            next_step="mend the file, or dataset.source if it is of another format",
        ) from None


def _no_column(file: Path, who: str, column: str, existing: list[str]) -> InputError:
    folded = {name.casefold(): name for name in existing}
    near = difflib.get_close_matches(column.casefold(), folded, n=1)
    return InputError(
        f"the table has no column {column!r}",
        where=f"{who}, {file}",
        expected="one of its columns: " + ", ".join(existing),
        got=column,
        next_step=(f"did you mean {folded[near[0]]!r}? " if near else "") + f"mend {who}, or add the column",
    )
