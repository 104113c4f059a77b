"""Counts of added, removed, changed and kept items between two snapshots."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from indexmill.tasks.evaluation.snapshot_diff import count_item_changes


@pytest.fixture
def snapshots(tmp_path: Path) -> tuple[Path, Path]:
    """Item 1 is kept, 2 is removed, 3 has new content and label, 4 a new label, 5 loses its label, 6 and 7 are new, 8
    never had a label.
    """
    baseline, candidate = tmp_path / "baseline's.parquet", tmp_path / "candidate.parquet"
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


def test_each_item_is_counted_once(snapshots: tuple[Path, Path], tmp_path: Path) -> None:
    """The counts add up to the items of both tables."""
    counts = count_item_changes(*snapshots, temp_dir=tmp_path)
    assert counts == {"added": 2, "removed": 1, "changed": 1, "relabeled": 2, "kept": 2}


def test_equal_tables_have_only_kept_items(snapshots: tuple[Path, Path], tmp_path: Path) -> None:
    """All other counts are 0."""
    assert count_item_changes(snapshots[0], snapshots[0], temp_dir=tmp_path) == {
        "added": 0,
        "removed": 0,
        "changed": 0,
        "relabeled": 0,
        "kept": 6,
    }
