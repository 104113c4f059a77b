"""The query and its duplicates leave rankings and denominators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.evaluation.labels import DuplicateGroups
from indexmill.tasks.metrics.exclusion import UNGROUPED, count_own_relevant, drop_excluded, mask_own_results
from indexmill.tasks.metrics.ranking import precision_at, recall_at


def test_own_places_are_the_query_and_its_group() -> None:
    """Query 1 of group 4 finds itself, item 2 of its group, item 3 of another; query 9 has no group and finds itself and an empty place."""
    found = np.array([[1, 2, 3], [8, 9, -1]])
    groups = np.array([[4, 4, 5], [UNGROUPED, UNGROUPED, UNGROUPED]])
    assert mask_own_results(np.array([1, 9]), np.array([4, UNGROUPED]), found, groups).tolist() == [
        [True, True, False],
        [False, True, False],
    ]


def test_later_places_move_up_and_the_denominators_shrink() -> None:
    """Items 1 and 2 are out; of label 0's four relevant items two were the query's own, so P@2 = 1/2 and R@2 = 1/2."""
    found = np.array([[1, 30, 2, 40, 50]])
    excluded = np.array([[True, False, True, False, False]])
    assert drop_excluded(found, excluded).tolist() == [[30, 40, 50, -1, -1]]
    hits = np.array([[True, False, True, True, False]])
    left = drop_excluded(hits, excluded, empty=False)
    assert left.tolist() == [[False, True, False, False, False]]
    own = count_own_relevant(np.array([1]), np.array([4]), np.array([0]), [(np.array([1, 2, 3]), np.array([4, 4, 5]), np.array([0, 0, 0]))])
    relevant = np.array([4]) - own
    assert relevant.tolist() == [2]
    assert precision_at(left, 2).tolist() == [0.5]
    assert recall_at(left, relevant, 2).tolist() == [0.5]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_the_shrinking_is_a_count_one_by_one(seed: int, pieces: int) -> None:
    """In whatever blocks; items of one group may have several labels; items and queries may stand without a group."""
    random = np.random.default_rng(seed)
    ids = random.permutation(40)
    groups, labels = random.integers(-1, 6, 40), random.integers(0, 3, 40)
    asked = random.permutation(40)[:12]
    by_id = {int(item): (int(group), int(label)) for item, group, label in zip(ids, groups, labels, strict=True)}
    own = [by_id[int(item)] for item in asked]
    inside = np.flatnonzero(ids % 3 > 0)  # the database: some of the queries stand in it
    blocks = [(ids[part], groups[part], labels[part]) for part in np.array_split(inside, pieces)]
    expected = [
        sum(
            by_id[item][1] == label and (item == query or (group != UNGROUPED and by_id[item][0] == group)) for item in ids[inside].tolist()
        )
        for query, (group, label) in zip(asked.tolist(), own, strict=True)
    ]
    got = count_own_relevant(asked, np.array([group for group, _ in own]), np.array([label for _, label in own]), blocks)
    assert got.tolist() == expected


def test_groups_are_looked_up_by_item_id(tmp_path: Path) -> None:
    """Items 3 and 9 share a group, 5 has another, 7 has none, 4 is not there."""
    table = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [9, 3, 7, 5], "content_group": ["b", "b", None, "a"]}).write_parquet(table)
    nine, three, seven, five, four = DuplicateGroups(table, temp_dir=tmp_path).lookup(np.array([9, 3, 7, 5, 4])).tolist()
    assert nine == three != five
    assert seven == four == UNGROUPED
    assert UNGROUPED not in (nine, five)


def test_a_table_without_items_has_no_groups(tmp_path: Path) -> None:
    """And does not fail."""
    table = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [], "content_group": []}, schema={"item_id": pl.Int64, "content_group": pl.String}).write_parquet(table)
    assert DuplicateGroups(table, temp_dir=tmp_path).lookup(np.array([[1, -1]])).tolist() == [[UNGROUPED, UNGROUPED]]


def test_a_long_ranking_keeps_its_order() -> None:
    """Every third of 1,000 places goes; what is left stands in its order."""
    places = np.random.default_rng(0).permutation(1000)[None]
    excluded = np.arange(1000)[None] % 3 == 0
    assert drop_excluded(places, excluded)[0].tolist() == places[~excluded].tolist() + [-1] * 334


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_moving_up_keeps_the_type(dtype: type) -> None:
    """Nothing excluded is nothing changed."""
    places = np.array([[1, 0, 1]], dtype)
    same = drop_excluded(places, np.zeros((1, 3), bool), empty=0)
    assert same.dtype == places.dtype
    assert same.tolist() == places.tolist()
