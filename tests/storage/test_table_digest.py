"""A table's digest depends on its rows alone, and on all of them."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.storage import parquet, table_digest
from indexmill.storage.table_digest import block_digest

SCHEMA = pa.schema({"item_id": pa.int64(), "text": pa.string(), "leak": pa.bool_(), "score": pa.float64()})
Row = tuple[int | None, str | None, bool | None, float | None]
rows = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.text(max_size=4),
        st.none() | st.booleans(),
        st.none() | st.floats(allow_nan=False),
    ),
    max_size=20,
)


def make_batch(table: list[Row], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    columns = [pa.array([row[number] for row in table], field.type) for number, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def digest(*tables: list[Row], schema: pa.Schema = SCHEMA) -> str:
    return table_digest.table_digest(schema, [make_batch(table, schema) for table in tables])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows per block, so that small tables have several."""
    monkeypatch.setattr(table_digest, "BLOCK_ROWS", 3)


def test_a_block_is_hashed_column_by_column() -> None:
    """By hand: no nulls and two little-endian numbers; a null in row 1, lengths 2 and 0, and the bytes of the first text."""
    block = pa.table({"item_id": pa.array([1, 258]), "text": pa.array(["é", None])})
    parts = [b"", bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]), bytes([0b01000000]), bytes([2, *[0] * 15]), b"\xc3\xa9"]
    expected = hashlib.blake2b(b"".join(len(part).to_bytes(8, "little") + part for part in parts), digest_size=32)
    assert block_digest(block) == expected.digest()
    header = json.dumps([["item_id", "int64"], ["text", "string"]]).encode()
    whole = hashlib.blake2b(header + expected.digest() + (2).to_bytes(8, "little"), digest_size=32)
    assert table_digest.table_digest(block.schema, block.to_batches()) == whole.hexdigest()


@settings(deadline=None)
@given(table=rows, cuts=st.lists(st.integers(0, 20), max_size=5))
def test_equal_rows_have_one_digest_in_whatever_parts(table: list[Row], cuts: list[int]) -> None:
    """Cut anywhere, with empty parts."""
    edges = [0, *sorted(cut for cut in cuts if cut <= len(table)), len(table)]
    assert digest(*(table[start:end] for start, end in itertools.pairwise(edges))) == digest(table)


@settings(deadline=None)
@given(table=rows.filter(bool), data=st.data())
def test_one_other_value_gives_another_digest(table: list[Row], data: st.DataObject) -> None:
    """In any row and column; null differs from 0, from an empty text and from false."""
    number, column = data.draw(st.integers(0, len(table) - 1)), data.draw(st.integers(0, 3))
    other = data.draw(rows.filter(bool))[0][column]
    changed = [*table]
    changed[number] = (*table[number][:column], other, *table[number][column + 1 :])
    if other != table[number][column]:
        assert digest(changed) != digest(table)
    assert digest(table, table[:1]) != digest(table)


@pytest.mark.parametrize(
    "tables",
    [
        ([(1, "a", True, 0.0), (2, "bc", True, 0.0)], [(1, "ab", True, 0.0), (2, "c", True, 0.0)]),
        ([(0, "", False, 0.0)], [(None, "", False, 0.0)]),
        ([(0, "", False, 0.0)], [(0, None, False, 0.0)]),
        ([(0, "", False, 0.0)], [(0, "", None, 0.0)]),
        ([(1, "a", True, 0.0), (2, "a", True, 0.0)], [(2, "a", True, 0.0), (1, "a", True, 0.0)]),
    ],
    ids=["cell boundaries", "null number", "null text", "null boolean", "order"],
)
def test_tables_that_look_alike_differ(tables: tuple[list[Row], list[Row]]) -> None:
    """Where one cell ends, what is null, and the order of the rows all count."""
    assert digest(tables[0]) != digest(tables[1])


def test_the_names_of_the_columns_count() -> None:
    """The same values under another name are another table."""
    renamed = pa.schema([field.with_name("other") if field.name == "text" else field for field in SCHEMA])
    assert digest([(1, "a", True, 0.5)]) != digest([(1, "a", True, 0.5)], schema=renamed)


def test_encodings_and_row_groups_do_not_count(tmp_path: Path) -> None:
    """Parquet files of the same rows: plain and in one group, with a dictionary and in groups of two; and some columns only."""
    batch = make_batch([(number, "text" if number % 2 else None, None, number / 2) for number in range(7)])
    table = pa.Table.from_batches([batch])
    pq.write_table(table, tmp_path / "plain.parquet", use_dictionary=False)
    as_dictionary = table.set_column(1, "text", table["text"].dictionary_encode())
    pq.write_table(as_dictionary, tmp_path / "dictionary.parquet", row_group_size=2)
    plain, dictionary = (parquet.compute_digest(tmp_path / f"{name}.parquet") for name in ("plain", "dictionary"))
    assert plain == dictionary
    assert parquet.compute_digest(tmp_path / "plain.parquet", ["item_id", "text"]) == table_digest.table_digest(
        table.select(["item_id", "text"]).schema, table.select(["item_id", "text"]).to_batches()
    )
