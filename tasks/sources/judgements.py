"""Read judgements: which item is relevant to which query, and how much (qrels).

Formats: TREC's qrels (`query iteration document grade`, separated by spaces or tabs, without a header), BEIR's .tsv
(`query-id corpus-id score`, separated by tabs, with or without a header), and tables with BEIR's three columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.digests import item_id
from indexmill.storage.errors import InputError
from indexmill.tasks.sources.table_reader import TableFormat, read_rows, require_columns

BEIR_COLUMNS = ("query-id", "corpus-id", "score")
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
MAX_GRADE = 1_000_000
JUDGEMENTS_SCHEMA = pa.schema({"query": pa.string(), "item": pa.string(), "grade": pa.int64(), "item_id": pa.int64()})


@dataclass(frozen=True)
class Judgement:
    """One judgement.

    Attributes:
        query: The query's id.
        item: The item's key.
        grade: How relevant the item is; 0 and below is judged, and not relevant.
    """

    query: str
    item: str
    grade: int


def read_judgements(path: Path) -> Iterator[Judgement]:
    """Yield the judgements of a file in order.

    Args:
        path: The file. A table by its suffix (TABLE_SUFFIXES, also .jsonl.gz), else lines of text.

    Raises:
        InputError: A line has other fields, or its grade is not an integer.
    """
    name = path.name.removesuffix(".gz")
    rows = _read_table(path) if name.endswith(TABLE_SUFFIXES) else _read_lines(path)
    for position, query, item, grade in rows:
        yield Judgement(query, item, _parse_grade(grade, f"{path}, {position}"))


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> int:
    """Write judgements as a table (JUDGEMENTS_SCHEMA), with the id of the item that each names. Returns their number."""
    return parquet.write_parquet(path, JUDGEMENTS_SCHEMA, _iterate_batches(judgements))


def _iterate_batches(judgements: Iterable[Judgement]) -> Iterator[pa.RecordBatch]:
    remaining = iter(judgements)
    while batch := list(itertools.islice(remaining, parquet.BATCH_ROWS)):
        rows = [
            {"query": judgement.query, "item": judgement.item, "grade": judgement.grade, "item_id": item_id(judgement.item)}
            for judgement in batch
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=JUDGEMENTS_SCHEMA)


def _read_table(path: Path) -> Iterator[tuple[str, str, str, str]]:
    table_format = cast("TableFormat", path.name.removesuffix(".gz").rpartition(".")[2])
    require_columns(path, table_format, {f"BEIR's column {column}": column for column in BEIR_COLUMNS})
    for row in read_rows(path, table_format, BEIR_COLUMNS):
        if row.fault:
            raise InputError(
                "a row is not a judgement", where=str(path), expected="query, item and grade", got=row.fault, next_step="correct it"
            )
        query, item, grade = row.cells
        yield f"row {row.line}", query or "", item or "", grade or ""


def _read_lines(path: Path) -> Iterator[tuple[str, str, str, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, start=1) if line.strip())
            first = next(lines, None)
            if first is None:
                return
            is_beir = len(first[1].split("\t")) == 3
            has_header = is_beir and not _is_number(first[1].split("\t")[2])
            for number, line in lines if has_header else itertools.chain([first], lines):
                fields = [field.strip() for field in line.split("\t")] if is_beir else line.split()
                if len(fields) != (3 if is_beir else 4):
                    raise _build_line_error(path, number, line, is_beir=is_beir)
                yield f"line {number}", fields[0], fields[-2], fields[-1]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the judgements cannot be read",
            where=str(path),
            expected="a file in UTF-8, in TREC's qrels format or BEIR's .tsv",
            got=" ".join(str(error).split()),
            next_step="correct the path, or the file",
        ) from None


def _parse_grade(text: str, where: str) -> int:
    """Parse a grade. Tables may hold whole numbers as floats, as in `1.0`."""
    grade = float(text) if _is_number(text) else float("nan")
    if not abs(grade) <= MAX_GRADE or grade != int(grade):
        raise InputError(
            "the grade of a judgement is not a whole number",
            where=where,
            expected="0 for not relevant, 1 or more for relevant",
            got=text[:60] or "an empty field",
            next_step="correct the line; scores that people gave can be rounded",
        )
    return int(grade)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _build_line_error(path: Path, number: int, line: str, *, is_beir: bool) -> InputError:
    return InputError(
        "a line is not a judgement",
        where=f"{path}, line {number}",
        expected="three fields separated by tabs: query, item, grade" if is_beir else "four fields: query, iteration, item, grade",
        got=line[:120],
        next_step="correct the line; keys that contain spaces need BEIR's .tsv, which is separated by tabs",
    )
