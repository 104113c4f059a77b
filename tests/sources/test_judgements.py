"""Judgements in TREC's and BEIR's formats."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.storage.errors import InputError
from indexmill.tasks.sources.judgements import Judgement, read_judgements

ROWS = [("q1", "a", 2), ("q1", "b", 0), (7, "a", -1)]
JSON_LINES = "".join(f'{{"query-id": "{query}", "corpus-id": "{item}", "score": {grade}}}\n' for query, item, grade in ROWS)
EXPECTED = [Judgement("q1", "a", 2), Judgement("q1", "b", 0), Judgement("7", "a", -1)]


def read(path: Path) -> list[Judgement]:
    return list(read_judgements(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qrels.txt", "q1 0 a 2\nq1 0 b 0\n\n7 Q0 a -1\n"),
        ("qrels.trec", "q1\t0\ta\t2\r\nq1\t0\tb\t0\r\n7\t0\ta\t-1"),
        ("test.tsv", "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\n7\ta\t-1\n"),
        ("test.tsv", "\ufeffq1\ta\t2\nq1\tb\t0\n7\ta\t-1\n"),
        ("test.csv", "query-id,corpus-id,score\nq1,a,2\nq1,b,0\n7,a,-1\n"),
        ("test.jsonl", JSON_LINES),
    ],
    ids=["trec", "trec with tabs", "beir", "beir without a header", "csv", "jsonl"],
)
def test_every_format_gives_the_same_judgements(tmp_path: Path, name: str, text: str) -> None:
    """Spaces or tabs, with and without a header, with a byte-order mark, and as tables."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read(tmp_path / name) == EXPECTED


def test_whole_numbers_may_be_stored_as_floats(tmp_path: Path) -> None:
    """Parquet files of the hub hold scores such as 1.0."""
    table = pa.table({"query-id": ["q"], "corpus-id": ["a"], "score": [1.0]})
    pq.write_table(table, tmp_path / "test.parquet")
    assert read(tmp_path / "test.parquet") == [Judgement("q", "a", 1)]


def test_keys_with_spaces_need_tabs(tmp_path: Path) -> None:
    """BEIR's format is separated by tabs alone."""
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\na b\tc d.jpg\t1\n")
    assert read(tmp_path / "test.tsv") == [Judgement("a b", "c d.jpg", 1)]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("q1 0 a 2\nq1 0 b 0.5\n", "line 2"),
        ("q1 0 a nan\n", "nan"),
        ("q1 0 a high\n", "high"),
        ("q1 0 a 1e300\n", "1e300"),
        ("q1 0 a\n", "q1 0 a"),
        ("q\ta\t1\nq\tb\n", "line 2"),
    ],
    ids=["half", "nan", "word", "huge", "three fields", "two tabs"],
)
def test_a_line_that_is_no_judgement_is_named(tmp_path: Path, text: str, got: str) -> None:
    """A grade is a whole number, and every line has all fields."""
    (tmp_path / "qrels.txt").write_text(text)
    with pytest.raises(InputError, match=r"whole number|not a judgement") as caught:
        read(tmp_path / "qrels.txt")
    assert got in str(caught.value)
    assert "qrels.txt" in str(caught.value)


def test_an_unreadable_file_is_an_input_error(tmp_path: Path) -> None:
    """UTF-16 is not UTF-8."""
    (tmp_path / "qrels.txt").write_text("q 0 a 1\n", encoding="utf-16")
    with pytest.raises(InputError, match="judgements cannot be read"):
        read(tmp_path / "qrels.txt")
