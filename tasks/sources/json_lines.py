"""Read the rows of JSON lines, and the fields of one JSON object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from indexmill.tasks.sources.table_cells import TableRow
from indexmill.tasks.sources.text_lines import open_lines, shorten

MAX_SHOWN_FIELDS = 10  # of a sample's JSON; every sample has its own message
MAX_SHOWN_CHARACTERS = 60  # of a field's name


class _JsonNumber(str):
    """A JSON number as it is written."""


class _Nested:
    """A list or an object where a text was expected."""


class _Repeated:
    """The values of a key that an object has more than once."""


def read_json_lines(file: Path, columns: Sequence[str | None], encoding: str | None) -> Iterator[TableRow]:
    """Yield the rows; `table_reader.read_rows` says what their cells are."""
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
        value = _DECODER.decode(line)
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


def list_json_keys(file: Path, wanted: set[str], encoding: str | None) -> list[str]:
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


# One for all lines: json.loads would build one per line, which takes longer than to parse a short text.
_DECODER = json.JSONDecoder(parse_float=_JsonNumber, parse_int=_JsonNumber, parse_constant=_parse_constant, object_pairs_hook=_build_object)
