"""Rows of a table, and its values as text."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa

MAX_EXACT_INTEGER = 2**53  # above it, floats skip integers


class TableRow(NamedTuple):
    """One row: the line that it starts on (in Parquet the row) from 1, the columns' texts, and why it cannot be read."""

    line: int
    cells: tuple[str | None, ...]
    fault: str | None = None


def is_nan(value: object) -> bool:
    """Return whether a value is a number that is missing."""
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def format_number(value: object) -> str:
    """Return a value as text, a whole float without its `.0`: a column of integers with gaps is stored as floats."""
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < MAX_EXACT_INTEGER
    return str(int(value)) if is_whole else str(value)  # type: ignore[call-overload]


def convert_arrow_column(column: pa.Array) -> list[str | None]:
    """Return the values of a column as text. Text that is not UTF-8 holds surrogates, which `find_invalid_text` finds."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return convert_arrow_column(column.cast(kind.value_type))
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
