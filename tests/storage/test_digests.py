"""Digests and ids depend on contents alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.digests import content_digest, file_digest, item_id, json_digest, rows_digest, unit_interval


def test_digests_are_those_of_the_standard_algorithms(tmp_path: Path) -> None:
    """They can be checked with b2sum and sha256sum."""
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_digest(b"abc") == hashlib.blake2b(b"abc", digest_size=16).hexdigest() == "cf4ab791c62b8d2b2109c90275287816"


@given(st.text())
def test_item_ids_are_positive_int64(key: str) -> None:
    """FAISS uses -1 for no result, and DuckDB and Arrow store int64."""
    assert 0 < item_id(key) < 2**63


def test_item_ids_never_change() -> None:
    """Old snapshots contain them."""
    assert item_id("3/0003.png") == 1276465266878825442


@given(st.integers(0, 2**31), st.text())
def test_draws_are_in_the_unit_interval_and_depend_on_the_seed(seed: int, key: str) -> None:
    """A draw is a function of seed and key."""
    assert 0 <= unit_interval(seed, key) < 1
    assert unit_interval(seed, key) == unit_interval(seed, key)
    assert unit_interval(seed, key) != unit_interval(seed + 1, key)


def test_draws_are_uniform() -> None:
    """A fifth of 20,000 draws is below 0.2, within three standard errors (0.0085)."""
    below = sum(unit_interval(7, str(number)) < 0.2 for number in range(20_000)) / 20_000
    assert abs(below - 0.2) < 0.0085


def test_cell_boundaries_change_a_digest_of_rows() -> None:
    """("a", "bc") and ("ab", "c") are different rows, and so are one row of two cells and two rows of one."""
    assert len({rows_digest(rows) for rows in ([("a", "bc")], [("ab", "c")], [("a",), ("bc",)], [('a","bc',)])}) == 4


def test_the_order_of_keys_does_not_change_a_json_digest() -> None:
    """Equal configs have equal digests."""
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
