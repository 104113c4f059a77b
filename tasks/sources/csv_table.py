"""Read the rows of separated values: any of four delimiters, doubled quotes or backslashes, quotes without an end."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from indexmill.tasks.sources.table_cells import TableRow
from indexmill.tasks.sources.text_lines import MAX_LINE_CHARACTERS, LineReader, open_lines, shorten

DELIMITERS: tuple[str, ...] = (",", ";", "\t", "|")
MAX_QUOTED_CHARACTERS = 32_000_000  # after a quote without its end
BACKSLASH_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "Z": "\x1a", "b": "\b"}


class _Header(NamedTuple):
    names: list[str]
    delimiter: str


def read_header_names(file: Path, wanted: set[str], encoding: str | None) -> list[str]:
    """Return the names of the columns."""
    with open_lines(file, encoding) as lines:
        return _read_header(lines, wanted).names


def read_csv(file: Path, columns: Sequence[str | None], encoding: str | None) -> Iterator[TableRow]:
    """Yield the rows; `table_reader.read_rows` says what their cells are."""
    with open_lines(file, encoding) as lines:
        header = _read_header(lines, {name for name in columns if name})
        positions = [header.names.index(name) if name in header.names else None for name in columns]
        for line, cells, fault in _split_records(lines, header):
            yield TableRow(line, tuple(None if at is None or not cells else cells[at] or None for at in positions), fault)


def _read_header(lines: LineReader, wanted: set[str]) -> _Header:
    """Read the header, after Excel's line `sep=;` and empty lines. The delimiter is the one that gives the most of the columns."""
    delimiters, used = DELIMITERS, 0
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
