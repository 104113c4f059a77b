"""Tables in Parquet, CSV and JSON lines."""

from __future__ import annotations

import gzip
import tempfile
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.table import TableSource
from indexmill.tasks.sources.table_cells import format_number, is_nan
from indexmill.tasks.sources.table_reader import TableFormat, read_rows
from tests.sources.table_files import Row, make_source, write_table


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_row_is_an_item(tmp_path: Path, root: Root, suffix: str) -> None:
    """Key, label and text come from their columns in order, the same in every format."""
    rows = [{"id": "b", "t": 'say "x", y\nz', "kind": "01"}, {"id": "a", "t": "2020-01-01", "kind": "1e3"}]
    path = write_table(tmp_path / f"t.{suffix}", rows)
    table = make_source(root, path, text_column="t", label_column="kind", key_column="id")
    assert [(item.key, item.text, item.label, item.path) for item in table.items()] == [
        ("b", 'say "x", y\nz', "01", None),
        ("a", "2020-01-01", "1e3", None),
    ]
    assert (table.modality, table.image_root, table.labeled) == ("text", None, True)
    assert list(table.pairs()) == []


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_numbers_are_read_as_text(tmp_path: Path, root: Root, suffix: str) -> None:
    """Numeric keys, labels and texts keep their digits."""
    path = write_table(tmp_path / f"t.{suffix}", [{"id": 7, "t": 1.5, "kind": -3}])
    (item,) = make_source(root, path, text_column="t", label_column="kind", key_column="id").items()
    assert (item.key, item.text, item.label) == ("7", "1.5", "-3")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_nulls_are_kept_for_validation(tmp_path: Path, root: Root, suffix: str) -> None:
    """A null text or key becomes an empty one, and a null label None. The row is listed."""
    rows: list[Row] = [{"id": "a", "t": "x", "kind": "k"}, {"id": None, "t": None, "kind": None}]
    path = write_table(tmp_path / f"t.{suffix}", rows)
    items = list(make_source(root, path, text_column="t", label_column="kind", key_column="id").items())
    assert [(item.key, item.text, item.label) for item in items] == [("a", "x", "k"), ("", "", None)]


def test_rows_without_a_key_are_numbered_in_their_file(tmp_path: Path, root: Root) -> None:
    """The key is the file and the row in it, from 0. A new file does not change the keys of others."""
    write_table(tmp_path / "data/b.csv", [{"t": "three"}])
    write_table(tmp_path / "data/c/a.csv", [{"t": "one"}, {"t": "two"}])
    pattern = f"{tmp_path}/data/**/*.csv"
    assert [(item.key, item.text) for item in make_source(root, pattern, text_column="t").items()] == [
        ("b.csv:0", "three"),
        ("c/a.csv:0", "one"),
        ("c/a.csv:1", "two"),
    ]
    write_table(tmp_path / "data/a.csv", [{"t": "new"}])
    assert {item.text: item.key for item in make_source(root, pattern, text_column="t").items()}["two"] == "c/a.csv:1"


def test_patterns_skip_hidden_names_and_folders(tmp_path: Path, root: Root) -> None:
    """A pattern matches files, but no hidden files and no folders."""
    write_table(tmp_path / "a.jsonl", [{"t": "x"}])
    write_table(tmp_path / ".b.jsonl", [{"t": "y"}])
    (tmp_path / "c.jsonl").mkdir()
    assert [item.text for item in make_source(root, f"{tmp_path}/*.jsonl", text_column="t").items()] == ["x"]


def test_files_of_a_pattern_are_ordered_by_name(tmp_path: Path, root: Root) -> None:
    """In whatever order the file system lists them."""
    for name in "hbdfaceg":
        write_table(tmp_path / f"{name}.csv", [{"t": name}])
    assert "".join(str(item.text) for item in make_source(root, f"{tmp_path}/*.csv", text_column="t").items()) == "abcdefgh"


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_file_with_wildcards_in_its_name_is_that_file(tmp_path: Path, root: Root, suffix: str) -> None:
    """An existing path is not a pattern, neither here nor for DuckDB."""
    write_table(tmp_path / f"it's [1]*.{suffix}", [{"t": "right"}])
    write_table(tmp_path / f"it's 1.{suffix}", [{"t": "wrong"}])
    assert [item.text for item in make_source(root, tmp_path / f"it's [1]*.{suffix}", text_column="t").items()] == ["right"]


def test_unusual_column_names_are_read(tmp_path: Path, root: Root) -> None:
    """Quotes, commas and spaces are part of a column's name."""
    for suffix in ("parquet", "csv", "jsonl"):
        path = write_table(tmp_path / f"t.{suffix}", [{'my "text", x': "yes", "select": "no"}])
        items = make_source(root, path, text_column='my "text", x', label_column="select").items()
        assert [(item.text, item.label) for item in items] == [("yes", "no")]


def test_one_column_can_be_used_twice(tmp_path: Path, root: Root) -> None:
    """The same column may be key and text."""
    for suffix in ("parquet", "csv", "jsonl"):
        path = write_table(tmp_path / f"t.{suffix}", [{"t": "x"}])
        assert [(item.key, item.text) for item in make_source(root, path, text_column="t", key_column="t").items()] == [("x", "x")]


def test_an_empty_table_has_no_items(tmp_path: Path, root: Root) -> None:
    """A header alone, or Parquet without rows, has no items."""
    (tmp_path / "t.csv").write_text("t,u\n")
    pq.write_table(pa.table({"t": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert [list(make_source(root, tmp_path / f"t.{suffix}", text_column="t").items()) for suffix in ("csv", "parquet")] == [[], []]


def test_rows_keep_their_order_over_many_batches(tmp_path: Path, root: Root) -> None:
    """Row numbers are right over several row groups and batches."""
    count = 50_000
    pq.write_table(pa.table({"t": [str(number) for number in range(count)]}), tmp_path / "t.parquet", row_group_size=3000)
    items = make_source(root, tmp_path / "t.parquet", text_column="t").items()
    assert all(item.key == f"t.parquet:{item.text}" for item in items)
    assert sum(1 for _ in make_source(root, tmp_path / "t.parquet", text_column="t").items()) == count


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8))
def test_csv_and_json_are_read_as_written(rows: list[tuple[str, str]]) -> None:
    """Any text that Python's csv and json write is read back unchanged."""
    table = [{"a": first, "b": second} for first, second in rows]
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("csv", "jsonl"):
            kind: TableFormat = "csv" if suffix == "csv" else "jsonl"
            path = write_table(Path(folder) / f"t.{suffix}", table)
            assert [row.cells for row in read_rows(path, kind, ["a", "b"])] == rows


# refused tables


def test_a_missing_column_is_refused_before_reading(tmp_path: Path, root: Root) -> None:
    """Opening the source fails. The error lists the columns and names the most similar one."""
    for suffix in ("parquet", "csv", "jsonl"):
        path = write_table(tmp_path / f"t.{suffix}", [{"id": "a", "Caption": "x"}])
        with pytest.raises(InputError, match="no column 'captions'") as raised:
            make_source(root, path, text_column="captions")
        assert raised.value.where == f"dataset.text_column, {path}"
        assert raised.value.expected == "one of its columns: id, Caption"
        assert raised.value.next_step.startswith("did you mean 'Caption'?")


def test_a_later_file_without_the_column_is_refused(tmp_path: Path, root: Root) -> None:
    """Every file of a pattern must have the columns; the error names the file without one."""
    write_table(tmp_path / "a.csv", [{"t": "x", "u": "y"}])
    write_table(tmp_path / "b.csv", [{"u": "y", "v": "z"}])
    with pytest.raises(InputError, match="no column 't'") as raised:
        list(make_source(root, f"{tmp_path}/*.csv", text_column="t").items())
    assert raised.value.where.endswith("b.csv")


def test_columns_may_be_in_another_order_in_each_file(tmp_path: Path, root: Root) -> None:
    """Columns are found by name, not by position."""
    write_table(tmp_path / "a.csv", [{"t": "x", "u": "y"}])
    write_table(tmp_path / "b.csv", [{"u": "y", "t": "z"}])
    assert [item.text for item in make_source(root, f"{tmp_path}/*.csv", text_column="t").items()] == ["x", "z"]


def test_a_column_of_nested_values_is_refused(tmp_path: Path, root: Root) -> None:
    """Bytes are no texts, and a list of paths is no image. The error states the column's type."""
    write_table(tmp_path / "t.parquet", [{"image": {"bytes": b"x", "path": "a.png"}, "raw": b"x", "many": ["a"], "plain": "a"}])
    for setting, column, got in (("text_column", "image", "struct"), ("key_column", "raw", "binary"), ("image_column", "many", "list")):
        with pytest.raises(InputError, match="does not hold text") as raised:
            make_source(root, tmp_path / "t.parquet", **({"text_column": "plain"} | {setting: column}))
        assert raised.value.got == got


def test_a_path_that_matches_nothing_is_refused(tmp_path: Path, root: Root) -> None:
    """The error tells a missing file, a missing folder and a pattern without a match apart."""
    for path, got in (
        (tmp_path / "t.csv", f"no such file in {tmp_path}"),
        (tmp_path / "none/t.csv", f"no folder {tmp_path / 'none'}"),
        (f"{tmp_path}/*.csv", f"no such file in {tmp_path}"),
    ):
        with pytest.raises(InputError, match="no table found") as raised:
            make_source(root, path, text_column="t")
        assert raised.value.got == got


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.jsonl", b'[{"t": "a"},\n{"t": "b"}]\n'),
        ("empty.jsonl", b""),
        ("cut.parquet", b"PAR1"),
        ("empty.csv", b""),
        ("other.parquet", b"t,u\na,1\n"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, root: Root, name: str, content: bytes) -> None:
    """Another format, or a truncated or empty file: the error names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        list(make_source(root, tmp_path / name, text_column="t").items())
    assert str(tmp_path / name) in raised.value.where


def test_open_source_opens_tables(tmp_path: Path, root: Root) -> None:
    """A config of any of the three formats opens a table."""
    path = write_table(tmp_path / "t.csv", [{"t": "x"}])
    assert isinstance(open_source(TableDatasetConfig(source="csv", path=str(path), text_column="t"), root), TableSource)


def test_csv_of_other_programs_is_read(tmp_path: Path, root: Root) -> None:
    """A byte-order mark, Windows line ends and a last line without a line end are accepted."""
    (tmp_path / "t.csv").write_bytes("\ufeffid,t\r\n1,é\r\n2,x".encode())
    items = make_source(root, tmp_path / "t.csv", text_column="t", key_column="id").items()
    assert [(item.key, item.text) for item in items] == [("1", "é"), ("2", "x")]


def test_lines_that_start_with_a_hash_are_rows(tmp_path: Path, root: Root) -> None:
    """CSV has no comments, neither in rows nor in the header."""
    (tmp_path / "t.csv").write_text("#t,u\n# a,1\n#b,2\n")
    assert [item.text for item in make_source(root, tmp_path / "t.csv", text_column="#t").items()] == ["# a", "#b"]


def test_a_line_above_the_header_is_refused(tmp_path: Path, root: Root) -> None:
    """A title or comment above the header is not skipped."""
    (tmp_path / "t.csv").write_text("# made by hand\nt,u\na,1\n")
    with pytest.raises(InputError):
        make_source(root, tmp_path / "t.csv", text_column="t")


# rows of all kinds


def read_cells(root: Root, path: Path, **columns: str) -> tuple[list[tuple[str | None, ...]], list[str]]:
    """Return the key, text and label of every readable row, and the faults of the others."""
    items = list(make_source(root, path, **{"text_column": "t", "label_column": "l", "key_column": "k", **columns}).items())
    return [(item.key, item.text, item.label) for item in items if not item.fault], [item.fault for item in items if item.fault]


ROWS = 30_000


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("b,a comma, not in quotes,x", "4 cells, and the header has 3"),
        ("b,one cell less", "2 cells, and the header has 3"),
        ('b,"no end,x', "quote without its end"),
        ('b,"text" after,x', "text after a closing quote"),
    ],
)
@pytest.mark.parametrize("before", [1, ROWS])
def test_a_malformed_csv_row_costs_itself(tmp_path: Path, root: Root, row: str, fault: str, before: int) -> None:
    """It is a row with its line and reason, wherever it is; quotes do not swallow the rows below."""
    path = tmp_path / "t.csv"
    path.write_text("k,t,l\n" + "".join(f"{n},x,y\n" for n in range(before)) + row + '\nlast,"two\nlines",z\nend,x,y\n')
    cells, faults = read_cells(root, path)
    assert len(cells) == before + 2
    assert cells[-2:] == [("last", "two\nlines", "z"), ("end", "x", "y")]
    assert len(faults) == 1
    assert faults[0].startswith(f"line {before + 2}: ")
    assert fault in faults[0]


@pytest.mark.parametrize(
    "content",
    [
        b"k;t;l\na;x, y;1\n",
        b"k\tt\tl\na\tx, y\t1\n",
        "sep=;\r\nk;t;l\r\na;x, y;1\r\n".encode("utf-8-sig"),
        b"k|t|l\na|x, y|1\n",
        b'k,t,l\ra,"x, y",1\r',
        b'\n\nk,t,l\r\n\na,"x, y",1,,\n\n',
        "k\tt\tl\r\na\tx, y\t1\r\n".encode("utf-16"),
        'k,t,l\na,"x, y",1\n'.encode("utf-16-le"),
        'k,t,l\na,"x, y",1\n'.encode("utf-16-be"),
        'k,t,l\na,"x, y",1\n'.encode("utf-32"),
        gzip.compress(b'k,t,l\na,"x, y",1\n', mtime=0),
    ],
)
def test_dialects_and_encodings_of_csv_are_recognized(tmp_path: Path, root: Root, content: bytes) -> None:
    """By the header's columns and the file's first bytes."""
    (tmp_path / "t.csv").write_bytes(content)
    assert read_cells(root, tmp_path / "t.csv") == ([("a", "x, y", "1")], [])


def test_backslashes_before_quotes_and_nulls_of_mysql_are_read(tmp_path: Path, root: Root) -> None:
    r"""A backslash escapes only in a row that is none otherwise, so the path `C:\` stays."""
    (tmp_path / "t.csv").write_text('k,t,l\n1,"say \\"hi\\", a\\nb",x\n2,"C:\\",\\N\n3,"5"" pipe",x\n4,5" pipe,x\n')
    assert read_cells(root, tmp_path / "t.csv") == (
        [("1", 'say "hi", a\nb', "x"), ("2", "C:\\", None), ("3", '5" pipe', "x"), ("4", '5" pipe', "x")],
        [],
    )


def test_another_encoding_is_a_fault_until_it_is_configured(tmp_path: Path, root: Root) -> None:
    (tmp_path / "t.csv").write_bytes("k,t,l\n1,café,x\n2,tea,x\n".encode("cp1252"))
    cells, faults = read_cells(root, tmp_path / "t.csv")
    assert cells == [("2", "tea", "x")]
    assert "0xe9" in faults[0]
    assert "dataset.encoding" in faults[0]
    assert read_cells(root, tmp_path / "t.csv", encoding="cp1252") == ([("1", "café", "x"), ("2", "tea", "x")], [])


def test_a_malformed_json_line_costs_itself(tmp_path: Path, root: Root) -> None:
    """With its true line, counted from 1 and with empty lines, and the reason."""
    lines = [
        '\ufeff{"k": "a", "t": "x", "l": "1"}',
        "",
        '{"k": "b", "t": "cut \\ud83d", "l": 1}',
        '{"k": "c", "t": ["x"], "l": 1}',
        "[1]",
        '{"k": "d", "t": "no end',
        '{"k": "e", "t": "x", "l": NaN, "other": "\\ud83d"}',
        '{"k": 1.50, "t": 1e3, "l": true}',
        '{"k": "f", "t": "\\ud83d\\ude00", "l": 12345678901234567890}',
        '{"k": "g"',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    cells, faults = read_cells(root, tmp_path / "t.jsonl")
    assert cells == [("a", "x", "1"), ("e", "x", None), ("1.50", "1e3", "true"), ("f", "\U0001f600", "12345678901234567890")]
    assert [fault.split(":")[0] if fault.startswith("line") else fault for fault in faults] == [
        "\\ud83d is half a character: a lone surrogate", "line 4", "line 5", "line 6", "line 10",
    ]  # fmt: skip


def test_many_and_sparse_columns_are_read(tmp_path: Path, root: Root) -> None:
    """Neither 300 columns nor keys that occur once, nor nested and mixed values beside them, change what is read."""
    rows = [
        {"k": f"r{n}", "t": f"text {n}", "l": "ab"[n % 2], f"score_{n}": n, "mixed": [n, "x", {"deep": [1]}, None][n % 4]}
        for n in range(400)
    ]
    assert read_cells(root, write_table(tmp_path / "t.jsonl", rows)) == ([(row["k"], row["t"], row["l"]) for row in rows], [])
    wide: list[Row] = [{**{f"c{n}": "0" for n in range(300)}, "k": "a", "t": "x", "l": "1"}]
    for suffix in ("csv", "jsonl", "parquet"):
        assert read_cells(root, write_table(tmp_path / f"wide.{suffix}", wide)) == ([("a", "x", "1")], [])


def test_a_column_that_first_occurs_late_is_read(tmp_path: Path, root: Root) -> None:
    rows: list[Row] = [{"k": str(n), "t": "x"} for n in range(30_000)] + [{"k": "last", "t": "x", "l": "y"}]
    assert read_cells(root, write_table(tmp_path / "t.jsonl", rows))[0][-1] == ("last", "x", "y")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_folders_do_not_replace_columns_of_the_file(tmp_path: Path, root: Root, suffix: str) -> None:
    """Folders named `column=value`, above and below the pattern, are only names."""
    path = write_table(tmp_path / f"t=draft/l=multi/k=7/part.{suffix}", [{"k": "a", "t": "x", "l": "de"}])
    assert read_cells(root, path) == ([("a", "x", "de")], [])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_that_differ_in_case_are_two(tmp_path: Path, root: Root, suffix: str) -> None:
    path = write_table(tmp_path / f"t.{suffix}", [{"T": "wrong", "t": "right", "L": "wrong", "l": "right", "k": "a", "a.b": "c"}])
    assert read_cells(root, path) == ([("a", "right", "right")], [])
    assert read_cells(root, path, text_column="a.b")[0] == [("a", "c", "right")]


def test_two_columns_of_one_name_are_refused(tmp_path: Path, root: Root) -> None:
    (tmp_path / "t.csv").write_text("k,t,t,l\na,x,y,z\n")
    with pytest.raises(InputError, match="2 columns named 't'"):
        make_source(root, tmp_path / "t.csv", text_column="t")


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        (pa.array([float("nan"), 1.0, 2.5, None, 1e20]), [None, "1", "2.5", None, "1e+20"]),
        (pa.array([1.0, float("nan")], pa.float32()), ["1", None]),
        (pa.array([0, 7, None]), ["0", "7", None]),
        (pa.array(["nan", "NaN", "", None, "1.0"]), ["nan", "NaN", "", None, "1.0"]),
        (pa.array(["b", None, "a"]).dictionary_encode(), ["b", None, "a"]),
        (pa.array([0, None], pa.timestamp("ns")), ["1970-01-01 00:00:00", None]),
        (pa.array([True, None]), ["true", None]),
        (pa.nulls(2), [None, None]),
        (pa.array([Decimal("1.50")]), ["1.50"]),
        (pa.array([18446744073709551615], pa.uint64()), ["18446744073709551615"]),
    ],
)
def test_missing_values_of_parquet_are_missing(tmp_path: Path, root: Root, values: pa.Array, cells: list[str | None]) -> None:
    """NaN and NaT are what null is, and `nan` written as text is a text. Whole floats read as integers."""
    pq.write_table(pa.table({"k": [str(n) for n in range(len(values))], "t": ["x"] * len(values), "l": values}), tmp_path / "t.parquet")
    assert [row[2] for row in read_cells(root, tmp_path / "t.parquet")[0]] == cells


def test_a_string_of_invalid_bytes_in_parquet_is_a_fault(tmp_path: Path, root: Root) -> None:
    texts = pa.array([b"x", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"k": ["a", "b"], "t": texts, "l": ["1", "2"]}), tmp_path / "t.parquet")
    cells, faults = read_cells(root, tmp_path / "t.parquet")
    assert cells == [("a", "x", "1")]
    assert "0xe9" in faults[0]


def test_a_long_cell_is_read_in_every_format(tmp_path: Path, root: Root) -> None:
    text = "word " * 600_000
    for suffix in ("csv", "jsonl", "parquet"):
        assert read_cells(root, write_table(tmp_path / f"t.{suffix}", [{"k": "a", "t": text, "l": "1"}])) == ([("a", text, "1")], [])


def test_numbers_of_data_sets_are_formatted_alike() -> None:
    """Streamed rows (Hugging Face) follow the same rules as Parquet files."""
    values = [1.0, 2.5, float("nan"), 7, "nan", True, 1e300]
    assert [None if is_nan(value) else format_number(value) for value in values] == ["1", "2.5", None, "7", "nan", "True", "1e+300"]


def test_folders_with_wildcards_in_their_names_and_linked_folders_are_read(tmp_path: Path, root: Root) -> None:
    """A folder that exists is no pattern; `**` stands for any number of folders and follows links, but not in circles."""
    outside = write_table(tmp_path / "outside/b.csv", [{"t": "linked"}]).parent
    top = tmp_path / "[x] {y} *"
    write_table(top / "a.csv", [{"t": "own"}])
    write_table(top / "sub/deep/c.csv", [{"t": "deep"}])
    write_table(top / ".hidden/d.csv", [{"t": "hidden"}])
    (top / "link").symlink_to(outside)
    (top / "loop").symlink_to(top)
    keys = [item.key for item in make_source(root, f"{top}/*.csv", text_column="t").items()]
    assert keys == ["a.csv:0"]
    keys = [item.key for item in make_source(root, f"{top}/**/*.csv", text_column="t").items()]
    assert keys == ["a.csv:0", "link/b.csv:0", "sub/deep/c.csv:0"]
    keys = [item.key for item in make_source(root, f"{top}/**/deep/?.csv", text_column="t").items()]
    assert keys == ["sub/deep/c.csv:0"]


def test_a_folder_in_place_of_a_table_is_named(tmp_path: Path, root: Root) -> None:
    """Spark writes a folder `t.csv` of parts."""
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(InputError, match="a folder") as caught:
        make_source(root, tmp_path / "t.csv", text_column="t")
    assert "*.csv" in caught.value.next_step
