"""Digests and ids depend on contents alone."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.digests import (
    MTIME_MARGIN_NS,
    content_digest,
    digesting_files_once,
    file_digest,
    forget_file_digests,
    item_id,
    json_digest,
    rows_digest,
    unit_interval,
)


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


def test_a_file_is_read_once_in_a_run_unless_it_changes(tmp_path: Path) -> None:
    """Bytes that change behind the modification time show what is read again: nothing, until one is damaged, or the run ends."""
    path = tmp_path / "file"

    def write(content: bytes, mtime: int) -> str:
        path.write_bytes(content)
        os.utime(path, ns=(mtime, mtime))
        return hashlib.sha256(content).hexdigest()

    with digesting_files_once():
        first = write(b"abc", 10**18)
        assert file_digest(path) == first
        (tmp_path / "link").hardlink_to(path)
        other = write(b"xyz", 10**18)
        assert file_digest(path) == file_digest(tmp_path / "link") == first
        assert write(b"xyz", 10**18 + 1) == file_digest(path) == other
        write(b"abc", 10**18 + 1)
        forget_file_digests()
        assert file_digest(path) == first
        write(b"xyz", 10**18 + 1)
    assert file_digest(path) == other


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    """Its next change may have the same modification time."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with digesting_files_once():
        file_digest(path)
        mtime = path.stat().st_mtime_ns
        path.write_bytes(b"xyz")
        os.utime(path, ns=(mtime, mtime))
        now = time.time_ns()
        assert file_digest(path) == hashlib.sha256(b"xyz").hexdigest() or now - mtime > MTIME_MARGIN_NS
