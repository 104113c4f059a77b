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
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.errors import InputError
from indexmill.tasks.sources.text_lines import MAX_LINE_CHARACTERS, LineReader, escape_text, find_invalid_text, open_lines, shorten

TableFormat = Literal["parquet", "csv", "jsonl"]

FORMAT_DESCRIPTIONS: dict[TableFormat, str] = {
    "parquet": "a Parquet file",
    "csv": "separated values with a header",
    "jsonl": "one JSON object per line",
}
DELIMITERS: tuple[str, ...] = (",", ";", "\t", "|")
MAX_QUOTED_CHARACTERS = 32_000_000  # after a quote without its end
MAX_SHOWN_COLUMNS = 60
MAX_SHOWN_FIELDS = 10  # of a sample's JSON; every sample has its own message
MAX_SHOWN_CHARACTERS = 60  # of a column's name
MAX_EXACT_INTEGER = 2**53  # above it, floats skip integers
BACKSLASH_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "Z": "\x1a", "b": "\b"}


class TableRow(NamedTuple):
    """One row: the line that it starts on (in Parquet the row) from 1, the columns' texts, and why it cannot be read."""

    line: int
    cells: tuple[str | None, ...]
    fault: str | None = None


class _JsonNumber(str):
    """A JSON number as it is written."""


class _Nested:
    """A list or an object where a text was expected."""


class _Repeated:
    """The values of a key that an object has more than once."""


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
                with open_lines(file, encoding) as lines:
                    return _read_header(lines, wanted).names, {}
            case "jsonl":
                return _list_json_keys(file, wanted, encoding), {}


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
                rows = _read_csv(file, columns, encoding)
            case "jsonl":
                rows = _read_json_lines(file, columns, encoding)
        for row in rows:
            fault = row.fault or next(filter(None, (find_invalid_text(cell) for cell in row.cells if cell)), None)
            yield TableRow(row.line, tuple(None for _ in columns), escape_text(fault)) if fault else row


def is_nan(value: object) -> bool:
    """Return whether a value is a number that is missing."""
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def format_number(value: object) -> str:
    """Return a value as text, a whole float without its `.0`: a column of integers with gaps is stored as floats."""
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < MAX_EXACT_INTEGER
    return str(int(value)) if is_whole else str(value)  # type: ignore[call-overload]


# Parquet


def _read_parquet(file: Path, columns: Sequence[str | None]) -> Iterator[TableRow]:
    with pq.ParquetFile(file) as table:
        names = [name for name in dict.fromkeys(columns) if name in table.schema_arrow.names]
        rows = itertools.count(1)
        for batch in table.iter_batches(batch_size=parquet.BATCH_ROWS, columns=names):
            by_name = {name: _convert_column(batch.column(name)) for name in names}
            empty: list[str | None] = [None] * batch.num_rows
            cells = [by_name.get(name, empty) for name in columns]
            yield from (TableRow(next(rows), row) for row in zip(*cells, strict=True))


def _convert_column(column: pa.Array) -> list[str | None]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _convert_column(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        dtype = kind.to_pandas_dtype()
        return [None if value is None or is_nan(value) else format_number(dtype(value)) for value in column.to_pylist()]
    if pa.types.is_timestamp(kind) and kind.tz:
        values = column.cast(pa.timestamp("us", kind.tz), safe=False).to_pylist()
        return [None if value is None else re.sub(r"(\.\d*?)0+(?=\+|-|$)", r"\1", str(value)) for value in values]
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        # Python has neither nanoseconds nor years above 9999.
        return [value and re.sub(r"\.0*$|(\.\d*?)0+$", r"\1", value) for value in column.cast(pa.string()).to_pylist()]
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in column.to_pylist()]
    if pa.types.is_decimal(kind):
        return [None if value is None else f"{value:f}" for value in column.to_pylist()]
    if pa.types.is_string_view(kind):
        return _decode_strings(column.cast(pa.large_binary()).view(pa.large_string()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _decode_strings(column)
    return [None if value is None else str(value) for value in column.to_pylist()]


def _decode_strings(column: pa.Array) -> list[str | None]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check what is written as a string
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [None if value is None else value.decode(errors="surrogateescape") for value in column.view(binary).to_pylist()]


# CSV


class _Header(NamedTuple):
    names: list[str]
    delimiter: str


def _read_csv(file: Path, columns: Sequence[str | None], encoding: str | None) -> Iterator[TableRow]:
    with open_lines(file, encoding) as lines:
        header = _read_header(lines, [name for name in columns if name])
        positions = [header.names.index(name) if name in header.names else None for name in columns]
        for line, cells, fault in _split_records(lines, header):
            yield TableRow(line, tuple(None if at is None or not cells else cells[at] or None for at in positions), fault)


def _read_header(lines: LineReader, wanted: Any) -> _Header:
    """Read the header, after Excel's line `sep=;` and empty lines. The delimiter is the one that gives the most of the columns."""
    wanted, delimiters = set(wanted), DELIMITERS
    used = 0
    for line in lines:
        if match := re.fullmatch(r'"?sep=(.)"?', line.strip("\r\n "), flags=re.I):
            delimiters = (match[1],)
        elif line.strip("\r\n"):
            lines.put_back([line])
            break
    else:
        raise ValueError("line 1: expected a header, found an empty file")
    best, best_found = _Header([], ","), -1
    for delimiter in delimiters:
        taken: list[str] = []
        names = next(csv.reader(_record_lines(lines, taken, MAX_QUOTED_CHARACTERS), delimiter=delimiter), [])
        lines.put_back(taken)
        if (found := len(wanted & set(names))) > best_found:
            best, best_found, used = _Header(names, delimiter), found, len(taken)
    for _ in range(used):
        next(lines)
    return best


def _split_records(lines: LineReader, header: _Header) -> Iterator[tuple[int, list[str] | None, str | None]]:
    """Yield the line, the cells and the fault of every record.

    A record that is not one costs its first line: reading goes on at the next, so that a quote without its end does not
    swallow the rows below.
    """
    csv.field_size_limit(MAX_LINE_CHARACTERS)
    limit = MAX_QUOTED_CHARACTERS
    while True:
        taken: list[str] = []
        cells, fault = _read_record(_record_lines(lines, taken, limit), taken, header)
        if not taken:
            return
        line = lines.number - len(taken) + 1
        if fault:
            if len(taken) > 1:
                limit = max(limit // 2, 100_000)  # many such quotes would make reading slow
                fault = "a quote without its end"
            lines.put_back(taken[1:])
            fault = f"line {line}: {fault}: {shorten(taken[0], 120)}"
        if taken[0].strip("\r\n"):
            yield line, ["" if cell == "\\N" else cell for cell in cells or []], fault


def _read_record(record: Iterator[str], taken: list[str], header: _Header) -> tuple[list[str] | None, str | None]:
    """Return the cells of a record, with doubled quotes or else with backslashes before quotes, or the fault."""
    try:
        cells, fault = _fit_cells(next(csv.reader(record, delimiter=header.delimiter, strict=True), []), header)
    except csv.Error as error:
        cells, fault = None, _describe_csv_error(error)
    if fault and '\\"' in "".join(taken) and (escaped := _split_backslash_record("".join(taken), header)):
        return escaped, None
    return cells, fault


def _record_lines(lines: LineReader, taken: list[str], limit: int) -> Iterator[str]:
    """Yield the lines of one record, as many as the CSV reader asks for, and note them."""
    size = 0
    for line in lines:
        taken.append(line)
        size += len(line)
        yield line
        if size > limit:
            return


def _fit_cells(cells: list[str], header: _Header) -> tuple[list[str] | None, str | None]:
    """Return the cells without empty ones beyond the header, or the fault."""
    expected = len(header.names)
    if not cells or len(cells) == expected:
        return cells, None
    if len(cells) > expected and not any(cells[expected:]):
        return cells[:expected], None
    return None, f"{len(cells)} cell{'s' * (len(cells) != 1)}, and the header has {expected} (separated by {header.delimiter!r})"


def _describe_csv_error(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quote without its end"
    return "text after a closing quote" if "expected after" in str(error) else str(error)


def _split_backslash_record(text: str, header: _Header) -> list[str] | None:
    """Split a record with backslash escapes, as MySQL and Spark write them; None if it is not one of the header's width."""
    separator = re.escape(header.delimiter)
    cell = re.compile(rf'"((?:[^"\\]|\\.|"")*)"(?={separator}|$)|((?:[^"\\{separator}]|\\.)*)(?={separator}|$)', flags=re.S)
    text, cells, position = text.rstrip("\r\n"), [], 0
    while match := cell.match(text, position):
        quoted = match[1] is not None
        value = match[1].replace('""', '"') if quoted else match[2]
        cells.append(re.sub(r"\\(.)", lambda escape: BACKSLASH_ESCAPES.get(escape[1], escape[1]), value, flags=re.S))
        position = match.end() + 1
        if position > len(text):
            return cells if len(cells) == len(header.names) else None
    return None


# JSON lines


def _read_json_lines(file: Path, columns: Sequence[str | None], encoding: str | None) -> Iterator[TableRow]:
    with open_lines(file, encoding) as lines:
        for line in lines:
            if not line.strip():
                continue
            cells, fault = read_json_fields(line, columns)
            yield TableRow(lines.number, cells, fault and f"line {lines.number}: {fault}: {shorten(line, 120)}")


def read_json_fields(text: str, names: Sequence[str | None]) -> tuple[tuple[str | None, ...], str | None]:
    """Return the named fields of a JSON object as text, a missing one as None, and why they cannot be read, if so."""
    values, fault = _parse_object(text)
    cells: list[str | None] = []
    for name in names:
        cell = None if fault or name is None else _convert_json(values.get(name))
        if isinstance(cell, _Nested):
            fault = _describe_nested(name or "", values)
            break
        cells.append(cell)
    return tuple(cells), fault


def describe_missing_field(text: str, name: str) -> str:
    """Say that a JSON object has no such field, or null in it, and which fields it has."""
    values, _ = _parse_object(text)
    if name in values:
        return f"the field {name!r} is null"
    names = list(values)
    more = f" and {len(names) - MAX_SHOWN_FIELDS:,} more" if len(names) > MAX_SHOWN_FIELDS else ""
    shown = ", ".join(shorten(field, MAX_SHOWN_CHARACTERS) for field in names[:MAX_SHOWN_FIELDS])
    return f"no field {name!r}; its fields are {shown or 'none'}{more}"


def _parse_object(line: str) -> tuple[dict[str, Any], str | None]:
    try:
        value = json.loads(
            line,
            parse_float=_JsonNumber,
            parse_int=_JsonNumber,
            parse_constant=_parse_constant,
            object_pairs_hook=_build_object,
        )
    except json.JSONDecodeError as error:
        return {}, f"{error.msg} at column {error.colno}"
    except RecursionError:
        return {}, "too deeply nested"
    if not isinstance(value, dict):
        return {}, f"expected a JSON object, found {type(value).__name__.strip('_').lower()}"
    return value, None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict. A key that occurs more than once has no value to rely on."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        values |= {key: _Repeated() for key, count in counts.items() if count > 1}
    return values


def _describe_nested(column: str, values: dict[str, Any]) -> str:
    value = values[column]
    if isinstance(value, _Repeated):
        return f"{column!r} occurs more than once"
    return f"{column!r} holds {'a list' if isinstance(value, list) else 'an object'}, not a text"


def _parse_constant(name: str) -> Any:
    return None if name == "NaN" else _JsonNumber(name)


def _convert_json(value: Any) -> str | _Nested | None:
    match value:
        case None | str():
            return None if value is None else str(value)
        case bool():
            return str(value).lower()
    return _Nested()


def _list_json_keys(file: Path, wanted: set[str], encoding: str | None) -> list[str]:
    """List the keys of the file's objects, up to the line where all wanted ones have occurred."""
    names: dict[str, None] = {}
    with open_lines(file, encoding) as lines:
        first = ""
        for line in lines:
            values, fault = _parse_object(line) if line.strip() else ({}, None)
            first = first or (f"line {lines.number}: {fault}: {shorten(line, 120)}" if fault else "")
            names |= dict.fromkeys(values)
            if wanted <= names.keys():
                return list(names)
    if not names:
        raise ValueError(first or "line 1: expected a JSON object, found an empty file")
    return list(names)


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
