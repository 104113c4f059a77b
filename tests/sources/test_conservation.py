"""Nothing that is put in is lost in silence: rows and files come out as items, rejects with a reason, or counted files.

Generated tables and trees go through ingest and validate, in this process and without an encoder.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.configs.models import ValidateConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources import Item, open_source
from indexmill.tasks.sources.table import TableSource
from indexmill.tasks.validate import validate
from tests.sources.table_files import Row, write_table
from tests.stage_inputs import read_rows

WILD_TEXTS = [
    *["nan", "NULL", "None", "N/A", "0", "01", "1.0", "1e3", "-0", "true", "=1+1", "'", '"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r"],
    *[
        "a\0b",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x1a",
        "\\",
        '\\"',
        "\u00e9",
        "e\u0301",
        "\U0001f600",
        "\u062f\u0646",
        " ",
        "#",
        "sep=,",
        "{}",
        "[1]",
    ],
]
QUICK = settings(max_examples=60, deadline=None)
COLUMNS = {"key_column": "k", "text_column": "t", "label_column": "l"}
Cells = tuple[str | None, str | None]  # label, note


@contextmanager
def open_folder() -> Iterator[tuple[Path, Root]]:
    """A folder of its own for every example."""
    with tempfile.TemporaryDirectory() as folder:
        root = Root(Path(folder) / "root")
        try:
            yield Path(folder), root
        finally:
            root.close()


class Outcome:
    """What ingest and validation made of an input: items by key, rejects as (key, reason), and what was counted."""

    def __init__(self, root: Root, config: Any) -> None:
        source = open_source(config, root)
        dataset = ingest.fn(root, "some", config, source.compute_revision())
        validated = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=1, max_text_length=1000))
        rejects = read_rows(root, validated.rejects)
        assert all(row["reason"] and row["message"] for row in rejects)
        self.items = {row["key"]: row for row in read_rows(root, validated.table)}
        self.rejects = sorted((row["key"], row["reason"]) for row in rejects)
        self.skipped = validated.skipped


def make_config(path: Path, **settings: Any) -> TableDatasetConfig:
    return TableDatasetConfig.model_validate({"source": path.suffix[1:], "path": str(path), **COLUMNS, **settings})


def list_items(path: Path, root: Root, **settings: Any) -> list[Item]:
    """Return what the source lists; every fault and text can be stored."""
    items = list(TableSource(make_config(path, **settings)).items())
    for item in items:
        pa.array([item.key, item.label, item.text, item.fault], pa.string())
    return items


# tables

CELLS = st.one_of(
    st.none(),
    st.sampled_from([*WILD_TEXTS, ""]),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
)


def number_rows(rows: list[Cells]) -> list[dict[str, str | None]]:
    """Give every row a key and a text of its own, so that only the label and the note are wild."""
    return [{"k": f"r{number}", "t": f"text {number}", "l": label, "n": note} for number, (label, note) in enumerate(rows)]


DIALECTS: list[dict[str, Any]] = [
    {"delimiter": delimiter, "lineterminator": ends, "quoting": quoting}
    for delimiter in ",;\t|"
    for ends in ("\n", "\r\n", "\r")
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@QUICK
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.sampled_from(DIALECTS), st.sampled_from(ENCODINGS), st.booleans())
def test_every_row_of_any_csv_is_an_item(rows: list[Cells], dialect: dict[str, Any], encoding: str, is_named: bool) -> None:
    """24 dialects in six encodings, named in the config or not. An empty cell is missing."""
    numbered = number_rows(rows)
    if "\r" in "".join(cell or "" for row in rows for cell in row):  # Python's writer leaves it without quotes
        dialect = dialect | {"quoting": csv.QUOTE_ALL}
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["k", "t", "l", "n"], **dialect)
    writer.writeheader()
    writer.writerows(numbered)
    with open_folder() as (folder, root):
        (folder / "t.csv").write_bytes(buffer.getvalue().encode(encoding))
        items = list_items(folder / "t.csv", root, **({"encoding": encoding} if is_named else {}))
    assert [(item.key, item.text, item.label) for item in items] == [(row["k"], row["t"], row["l"] or None) for row in numbered]


@QUICK
@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.sampled_from(ENCODINGS), st.booleans(), st.sampled_from(["\n", "\r\n"])
)
def test_every_row_of_any_json_lines_is_an_item(rows: list[Cells], encoding: str, is_ascii: bool, end: str) -> None:
    numbered = number_rows([("first", None), *rows])
    with open_folder() as (folder, root):
        content = "".join(json.dumps(row, ensure_ascii=is_ascii) + end for row in numbered)
        (folder / "t.jsonl").write_bytes(content.encode(encoding))
        items = list_items(folder / "t.jsonl", root)
    assert [(item.key, item.text, item.label) for item in items] == [(row["k"], row["t"], row["l"]) for row in numbered]


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just("cut \ud83d")),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=4,
)


def show_json_value(value: Any) -> str | None:
    """The text of a JSON value that is one: strings as they are, numbers as they are written, NaN and null missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, str) else json.dumps(value)


@QUICK
@given(st.lists(st.tuples(JSON_VALUES, JSON_VALUES), min_size=1, max_size=8))
def test_any_json_value_is_a_text_or_a_fault(rows: list[tuple[Any, Any]]) -> None:
    """Of mixed types in one column, nested, and with half a character."""
    with open_folder() as (folder, root):
        content = (json.dumps({"k": f"r{number}", "t": text, "l": label}) + "\n" for number, (text, label) in enumerate(rows))
        (folder / "t.jsonl").write_text("".join(content))
        items = list_items(folder / "t.jsonl", root)
    for number, ((text, label), item) in enumerate(zip(rows, items, strict=True)):
        is_bad = any(isinstance(value, list | dict) or "\ud83d" in str(value) for value in (text, label))
        assert bool(item.fault) == is_bad
        if is_bad:
            assert f"line {number + 1}" in item.key
        else:
            assert (item.key, item.text, item.label) == (f"r{number}", show_json_value(text) or "", show_json_value(label))


BROKEN_LINES = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw.translate(None, b"\n\r")),
    st.sampled_from(
        [b'a,"no end,x', b'"', b'""",', b"a,b", b"a,b,c,d", b'a,"b" c,d', b"\xff\xfe\x00", b"caf\xe9,x", b"a\0,b\0,c\0", b",,"]
    ),
)


@QUICK
@given(st.lists(BROKEN_LINES, min_size=1, max_size=5), st.integers(0, 6))
def test_broken_lines_of_csv_cost_themselves(broken: list[bytes], at: int) -> None:
    """The rows above and below are items. A broken line is a row of some kind, and lines without a quote are one each."""
    good = [b"good %d,text %d,x" % (number, number) for number in range(6)]
    with open_folder() as (folder, root):
        (folder / "t.csv").write_bytes(b"\n".join([b"k,t,l", *good[:at], *broken, *good[at:]]) + b"\n")
        items = list_items(folder / "t.csv", root, encoding="utf-8")
    keys = [item.key for item in items if not item.fault]
    assert [key for key in keys if key.startswith("good ")] == [f"good {number}" for number in range(6)]
    if not any(b'"' in line for line in broken):
        assert len(items) == len(good) + sum(bool(line) for line in broken)


@QUICK
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=6), st.binary(min_size=1, max_size=7), st.booleans())
def test_utf16_that_breaks_costs_its_rows(texts: list[str], noise: bytes, is_big: bool) -> None:
    """Half a pair in a text, an odd byte at the end: the other rows stay."""
    encoding = "utf-16-be" if is_big else "utf-16-le"
    texts = ["first", *(" ".join(text.split()).replace('"', "") for text in texts)]
    rows = "".join(f'r{number}\t"{text}"\tx\n' for number, text in enumerate(texts))
    with open_folder() as (folder, root):
        half = "\ud83d".encode(encoding, "surrogatepass")
        content = (
            ("\ufeffk\tt\tl\n" + rows).encode(encoding) + "cut\t".encode(encoding) + half + "\tx\nlast\ty\tx\n".encode(encoding) + noise
        )
        (folder / "t.csv").write_bytes(content)
        items = list_items(folder / "t.csv", root)
    assert [(item.key, item.text) for item in items[: len(texts)]] == [(f"r{number}", text) for number, text in enumerate(texts)]
    assert items[len(texts)].fault
    assert (items[len(texts) + 1].key, items[len(texts) + 1].text) == ("last", "y")


def test_a_key_that_a_json_object_repeats_is_a_fault(tmp_path: Path, root: Root) -> None:
    """None of its values is the right one. Keys that are not read may repeat."""
    (tmp_path / "t.jsonl").write_text('{"k": "a", "t": "x", "l": "1", "l": "2"}\n{"k": "b", "t": "x", "l": "1", "n": 1, "n": 2}\n')
    first, second = list_items(tmp_path / "t.jsonl", root)
    assert "'l' occurs more than once" in (first.fault or "")
    assert (second.key, second.label) == ("b", "1")


def test_an_error_is_short_whatever_the_header_is(tmp_path: Path, root: Root) -> None:
    """A quote without its end makes the whole file one name."""
    (tmp_path / "t.csv").write_text('k,t,"l\n' + "a,b,c\n" * 100_000)
    with pytest.raises(InputError, match="no column 'l'") as caught:
        list_items(tmp_path / "t.csv", root)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_row_counts_in_ingest_and_validation(tmp_path: Path, root: Root, suffix: str) -> None:
    """Wild labels and texts, and rows in which something is missing: a reject for each, with the reason and the place."""
    rows: list[Row] = [{"k": f"r{number}", "t": f"{number} {text}", "l": text} for number, text in enumerate(WILD_TEXTS)]
    rows += [{"k": None, "t": "no key", "l": "x"}, {"k": None, "t": "no key either", "l": "x"}, {"k": "no text", "t": None, "l": "x"}]
    rows += [{"k": "no label", "t": "x", "l": None}, {"k": "long", "t": "x" * 1001, "l": "x"}]
    outcome = Outcome(root, make_config(write_table(tmp_path / f"t.{suffix}", rows)))
    assert {key: item["label"] for key, item in outcome.items.items()} == {row["k"]: row["l"] for row in rows[: len(WILD_TEXTS)]}
    assert outcome.rejects == [
        *[("", "empty_key"), ("", "empty_key"), ("long", "text_too_long"), ("no label", "missing_label"), ("no text", "empty_text")]
    ]


DAY = datetime.date(2024, 2, 29)
ARROW_COLUMNS: list[tuple[pa.Array, str]] = [
    (pa.array([1, None], pa.int8()), "1"),
    (pa.array([2**63, None], pa.uint64()), "9223372036854775808"),
    (pa.array([1.5, float("nan")], pa.float16()), "1.5"),
    (pa.array([float("inf"), None], pa.float64()), "inf"),
    (pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)), "1.50"),
    (pa.array([Decimal("1E-9"), None], pa.decimal128(12, 9)), "0.000000001"),
    (pa.array([True, None]), "true"),
    (pa.array([DAY, None]), "2024-02-29"),
    (pa.array([10**7, None], pa.date32()), "29349-01-26"),
    (pa.array([1, None], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
    (pa.array([1500, None], pa.timestamp("us")), "1970-01-01 00:00:00.0015"),
    (pa.array([10**12, None], pa.timestamp("ms")), "2001-09-09 01:46:40"),
    (pa.array([0, None], pa.timestamp("ms", "Europe/Berlin")), "1970-01-01 01:00:00+01:00"),
    (pa.array([1, None], pa.time64("ns")), "00:00:00.000000001"),
    (pa.array([1, None], pa.duration("us")), "0:00:00.000001"),
    (pa.array(["a", None], pa.large_string()), "a"),
    (pa.array(["a", None], pa.string_view()), "a"),
    (pa.array(["a", None]).dictionary_encode(), "a"),
    (pa.array(["a\0b", None]), "a\0b"),
    (pa.nulls(2), "missing"),
]


@pytest.mark.parametrize(("column", "text"), ARROW_COLUMNS, ids=lambda value: value if isinstance(value, str) else str(value.type))
def test_a_value_of_every_type_of_parquet_is_a_text_or_missing(tmp_path: Path, root: Root, column: pa.Array, text: str) -> None:
    """What is null or NaN is missing, everything else is a text of its own, or a fault."""
    pq.write_table(pa.table({"k": ["a", "b"], "t": ["one", "two"], "l": column}), tmp_path / "t.parquet")
    first, second = list_items(tmp_path / "t.parquet", root)
    assert (first.label or first.fault or "missing", second.label) == (text, None)
