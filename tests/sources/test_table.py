"""Tables in Parquet, CSV and JSON lines."""

from __future__ import annotations

import tempfile
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
from indexmill.tasks.sources.table_reader import TableFormat, read_text_rows
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
            assert list(read_text_rows(path, kind, ["a", "b"], Path(folder))) == rows


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
    """Images as bytes inside Parquet are not paths, and the error states the column's type."""
    write_table(tmp_path / "t.parquet", [{"image": {"bytes": b"x", "path": "a.png"}, "raw": b"x", "many": ["a"]}])
    for column, got in (("image", "STRUCT"), ("raw", "BLOB"), ("many", "VARCHAR[]")):
        with pytest.raises(InputError, match="does not hold text") as raised:
            make_source(root, tmp_path / "t.parquet", image_column=column)
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
        ("late.csv", b"t,u\n" + b"a,1\n" * 30_000 + b"b,2,3\n"),
        ("latin.csv", b"t,u\ncaf\xe9,1\n"),
        ("cut.jsonl", b'{"t": "a"}\n{"t": "b\n'),
        ("cut.parquet", b"PAR1"),
        ("empty.csv", b""),
        ("other.parquet", b"t,u\na,1\n"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, root: Root, name: str, content: bytes) -> None:
    """A ragged line, another encoding or format, or a truncated or empty file: the error names the file."""
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
