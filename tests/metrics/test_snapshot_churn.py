"""What moved between two snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.tasks.evaluation.snapshot_diff import churn_at, count_item_changes, list_changed_items


def test_churn_by_hand() -> None:
    """The same in another order 0; one of four new 1/4; none in common 1; both empty 0; a list that shrank from 4 to 2 lost half."""
    baseline = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [-1, -1, -1, -1], [1, 2, 3, 4]])
    candidate = np.array([[4, 3, 2, 1], [1, 2, 3, 9], [5, 6, 7, 8], [-1, -1, -1, -1], [1, 2, -1, -1]])
    assert churn_at(baseline, candidate, 4).tolist() == [0, 0.25, 1, 0, 0.5]
    assert churn_at(baseline, candidate, 1).tolist() == [1, 0, 1, 0, 0]


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_churn_goes_both_ways_alike(seed: int, k: int) -> None:
    """0 to 1, the same from now to then, and the same whatever order the items stand in within the first k."""
    random = np.random.default_rng(seed)
    baseline, candidate = (np.stack([random.permutation(15)[:10] for _ in range(4)]) for _ in range(2))
    churn = churn_at(baseline, candidate, k)
    assert ((churn >= 0) & (churn <= 1)).all()
    assert churn.tolist() == churn_at(candidate, baseline, k).tolist()
    shuffled = np.concatenate([random.permuted(baseline[:, :k], axis=1), baseline[:, k:]], axis=1)
    assert churn_at(shuffled, candidate, k).tolist() == churn.tolist()


@pytest.fixture
def snapshots(tmp_path: Path) -> tuple[Path, Path]:
    """Item 1 is kept, 2 lost, 3 has new content and label, 4 a new label, 5 loses its label, 6 and 7 are new, 8 never had a label."""
    baseline, candidate = tmp_path / "then's.parquet", tmp_path / "now.parquet"
    pl.DataFrame(
        {"item_id": [1, 2, 3, 4, 5, 8], "content_digest": ["a", "b", "c", "d", "e", "h"], "label": ["x", "x", "x", "x", "x", None]}
    ).write_parquet(baseline)
    pl.DataFrame(
        {
            "item_id": [7, 6, 5, 4, 3, 1, 8],
            "content_digest": ["g", "f", "e", "d", "C", "a", "h"],
            "label": ["x", "x", None, "y", "y", "x", None],
        }
    ).write_parquet(candidate)
    return baseline, candidate


def test_each_item_has_one_fate(snapshots: tuple[Path, Path], tmp_path: Path) -> None:
    """The counts sum to the items of both tables together."""
    counts = count_item_changes(*snapshots, temp_dir=tmp_path)
    assert counts == {"added": 2, "removed": 1, "changed": 1, "relabelled": 2, "kept": 2}


def test_the_items_of_a_fate_are_told_in_order(snapshots: tuple[Path, Path], tmp_path: Path) -> None:
    """At most as many as asked for."""
    assert list_changed_items(*snapshots, "added", limit=10, temp_dir=tmp_path) == [6, 7]
    assert list_changed_items(*snapshots, "relabelled", limit=1, temp_dir=tmp_path) == [4]
    assert list_changed_items(*snapshots, "removed", limit=10, temp_dir=tmp_path) == [2]


def test_a_table_against_itself_is_all_kept(snapshots: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing else."""
    assert count_item_changes(snapshots[0], snapshots[0], temp_dir=tmp_path) == {
        "added": 0,
        "removed": 0,
        "changed": 0,
        "relabelled": 0,
        "kept": 6,
    }
