"""Duplicate groups, looked up by item id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from indexmill.tasks.evaluation.labels import DuplicateGroups
from indexmill.tasks.metrics.exclusion import UNGROUPED


def test_groups_are_looked_up_by_item_id(tmp_path: Path) -> None:
    """Items 3 and 9 share a group, 5 has another, 7 has none, 4 is unknown."""
    table = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [9, 3, 7, 5], "content_group": ["b", "b", None, "a"]}).write_parquet(table)
    nine, three, seven, five, four = DuplicateGroups(table, temp_dir=tmp_path).lookup(np.array([9, 3, 7, 5, 4])).tolist()
    assert nine == three != five
    assert seven == four == UNGROUPED
    assert UNGROUPED not in (nine, five)


def test_a_table_without_items_has_no_groups(tmp_path: Path) -> None:
    """Every lookup gives UNGROUPED."""
    table = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [], "content_group": []}, schema={"item_id": pl.Int64, "content_group": pl.String}).write_parquet(table)
    assert DuplicateGroups(table, temp_dir=tmp_path).lookup(np.array([[1, -1]])).tolist() == [[UNGROUPED, UNGROUPED]]
