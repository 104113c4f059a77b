"""Excluding the query and its duplicates from rankings and denominators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.exclusion import UNGROUPED, count_own_relevant, drop_excluded, mask_own_results
from indexmill.tasks.metrics.ranking import precision_at, recall_at


def test_own_results_are_the_query_and_its_group() -> None:
    """Query 1 of group 4 retrieves itself, item 2 of its group and item 3 of another.

    Query 9 without a group retrieves itself.
    """
    retrieved = np.array([[1, 2, 3], [8, 9, -1]])
    groups = np.array([[4, 4, 5], [UNGROUPED, UNGROUPED, UNGROUPED]])
    assert mask_own_results(np.array([1, 9]), np.array([4, UNGROUPED]), retrieved, groups).tolist() == [
        [True, True, False],
        [False, True, False],
    ]


def test_later_ranks_move_up_and_denominators_shrink() -> None:
    """Items 1 and 2 are out; of label 0's four relevant items two were the query's own, so P@2 = 1/2 and R@2 = 1/2."""
    retrieved = np.array([[1, 30, 2, 40, 50]])
    is_excluded = np.array([[True, False, True, False, False]])
    assert drop_excluded(retrieved, is_excluded).tolist() == [[30, 40, 50, -1, -1]]
    hits = np.array([[True, False, True, True, False]])
    remaining = drop_excluded(hits, is_excluded, empty=False)
    assert remaining.tolist() == [[False, True, False, False, False]]
    own = count_own_relevant(np.array([1]), np.array([4]), np.array([0]), [(np.array([1, 2, 3]), np.array([4, 4, 5]), np.array([0, 0, 0]))])
    relevant = np.array([4]) - own
    assert relevant.tolist() == [2]
    assert precision_at(remaining, 2).tolist() == [0.5]
    assert recall_at(remaining, relevant, 2).tolist() == [0.5]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_own_relevant_items_are_those_counted_one_by_one(seed: int, pieces: int) -> None:
    """In any blocks; items of one group may have several labels; items and queries may have no group."""
    random = np.random.default_rng(seed)
    ids = random.permutation(40)
    groups, labels = random.integers(-1, 6, 40), random.integers(0, 3, 40)
    queries = random.permutation(40)[:12]
    by_id = {int(item): (int(group), int(label)) for item, group, label in zip(ids, groups, labels, strict=True)}
    own = [by_id[int(item)] for item in queries]
    database_rows = np.flatnonzero(ids % 3 > 0)  # includes some of the queries
    blocks = [(ids[part], groups[part], labels[part]) for part in np.array_split(database_rows, pieces)]
    expected = [
        sum(
            by_id[item][1] == label and (item == query or (group != UNGROUPED and by_id[item][0] == group))
            for item in ids[database_rows].tolist()
        )
        for query, (group, label) in zip(queries.tolist(), own, strict=True)
    ]
    got = count_own_relevant(queries, np.array([group for group, _ in own]), np.array([label for _, label in own]), blocks)
    assert got.tolist() == expected


def test_a_long_ranking_keeps_its_order() -> None:
    """Every third of 1,000 ranks is excluded; the others keep their order."""
    rankings = np.random.default_rng(0).permutation(1000)[None]
    is_excluded = np.arange(1000)[None] % 3 == 0
    assert drop_excluded(rankings, is_excluded)[0].tolist() == rankings[~is_excluded].tolist() + [-1] * 334


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_excluding_nothing_changes_nothing(dtype: type) -> None:
    """Values and dtype stay."""
    rankings = np.array([[1, 0, 1]], dtype)
    same = drop_excluded(rankings, np.zeros((1, 3), bool), empty=0)
    assert same.dtype == rankings.dtype
    assert same.tolist() == rankings.tolist()
