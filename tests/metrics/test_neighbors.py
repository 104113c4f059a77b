"""Distances of what was found, and queries that find little."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.neighbors import (
    ann_recall_at,
    count_common,
    distance_ratio_at,
    distance_recall_at,
    exact_search,
    fraction_below,
)


def test_distance_ratio_by_hand() -> None:
    """Distances 0.1 + 0.4 against 0.1 + 0.2; one found place of two compares with the nearest alone; none is no figure."""
    scores, exact = np.array([[0.9, 0.6], [0.8, 0], [0, 0]], np.float32), np.array([[0.9, 0.8]] * 3, np.float32)
    ids = np.array([[1, 2], [3, -1], [-1, -1]])
    ratio = distance_ratio_at(scores, ids, exact, 2, higher_is_better=True)
    assert ratio[:2] == pytest.approx([0.5 / 0.3, 0.2 / 0.1], rel=1e-5)
    assert np.isnan(ratio[2])


def test_distances_of_l2_are_no_squares() -> None:
    """FAISS gives 4 and 9 for distances 2 and 3: the ratio is 3/2. And 1.0012 squared is too far by ann-benchmarks' rule, 1.0008 is not."""
    ids = np.array([[1]])
    assert distance_ratio_at(np.array([[9.0]]), ids, np.array([[4.0]]), 1, higher_is_better=False) == pytest.approx([1.5])
    for distance, counted in ((1.0012, 0), (1.0008, 1)):
        assert distance_recall_at(np.array([[distance**2]]), ids, np.array([[1.0]]), 1, higher_is_better=False).tolist() == [counted]


def test_a_query_that_lies_on_its_neighbours_has_no_ratio() -> None:
    """Nothing can be so many times farther than 0."""
    assert np.isnan(distance_ratio_at(np.array([[0.5]]), np.array([[1]]), np.array([[1.0]]), 1, higher_is_better=True)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]))
def test_exact_answers_are_worth_one_and_others_no_less(seed: int, k: int, metric: int) -> None:
    """Exact search of a part of the database is an approximate search of the whole."""
    random = np.random.default_rng(seed)
    queries, database = (random.standard_normal((count, 5)) for count in (6, 40))
    queries, database = ((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (queries, database))
    ids, higher_is_better = np.arange(40), metric == faiss.METRIC_INNER_PRODUCT
    exact_scores, exact = exact_search(queries, [(ids, database)], k, metric)
    part = np.sort(random.permutation(40)[:20])
    scores, found = exact_search(queries, [(part, database[part])], k, metric)
    assert distance_ratio_at(exact_scores, exact, exact_scores, k, higher_is_better=higher_is_better) == pytest.approx(np.ones(6))
    assert (distance_ratio_at(scores, found, exact_scores, k, higher_is_better=higher_is_better) >= 1 - 1e-6).all()
    by_ids, by_distance = (
        ann_recall_at(found, exact, k),
        distance_recall_at(scores, found, exact_scores, k, higher_is_better=higher_is_better),
    )
    assert (by_ids <= by_distance + 1e-12).all()


def test_ids_in_common_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python's sets count, a row at a time; empty places never match."""
    random = np.random.default_rng(0)
    left, right = (np.stack([random.permutation(12)[:5] - 1 for _ in range(20)]) for _ in range(2))
    expected = [len((set(a) & set(b)) - {-1}) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert count_common(left, right).tolist() == expected
    monkeypatch.setattr("indexmill.tasks.metrics.neighbors.ID_PAIRS_AT_ONCE", 3)
    assert count_common(left, right).tolist() == expected


def test_the_share_below_half_leaves_half_out() -> None:
    """0.5 is not below 0.5."""
    assert fraction_below(np.array([0, 0.49, 0.5, 1])) == 0.5
    assert np.isnan(fraction_below(np.empty(0)))
