"""Roots and tables below folders whose names hold any printable character."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.storage import catalog, parquet
from indexmill.storage.root import Root
from tests.examples import count_examples
from tests.hostile_names import WORST_NAME

SCHEMA = pa.schema({"item_id": pa.int64(), "label": pa.string()})
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


def check_root(folder: Path) -> None:
    """Write and read a table and the catalog of a root."""
    with_root = Root(folder)
    try:
        path = with_root.path / "it's a [table]*.parquet"
        parquet.write_parquet(path, SCHEMA, [pa.RecordBatch.from_pylist([{"item_id": 1, "label": "file"}], schema=SCHEMA)])
        copy = with_root.path / "copy.parquet"
        assert parquet.copy_query(f"SELECT * FROM {parquet.scan_sql(path)}", copy, temp_dir=with_root.tmp) == 1
        assert parquet.fetch_rows(f"SELECT * FROM {parquet.scan_sql(copy)}", temp_dir=with_root.tmp) == [(1, "file")]
        assert catalog.rebuild(with_root) == 0
        assert catalog.list_builds(with_root) == []
    finally:
        with_root.close()


@pytest.mark.parametrize(
    "name",
    [
        *[
            "what now?",
            "a?b=c&d",
            "50%",
            "%20",
            "it's",
            'a "b"',
            "{root}",
            "{a,b}",
            "[x]",
            "a*",
            "#",
            "a;b",
            "$HOME",
            "~",
            "a\nb",
            " ",
            "é" * 90,
            WORST_NAME,
        ],
        *["label=folder", "item_id=7", "back\\slash", ":memory:", "http:", "日本", "-rf", "!x", "`ls`", "a|b", "<x>"],
    ],
)
def test_a_root_may_have_any_name(tmp_path: Path, name: str) -> None:
    check_root(tmp_path / name / "root")


@settings(max_examples=count_examples(40), deadline=None)
@given(NAMES)
def test_a_root_may_have_a_random_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_root(Path(folder) / name / "root")
