"""Recall by ids and by distance, distance ratios, and churn."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.neighbors import (
    ann_recall_at,
    churn_at,
    count_common,
    distance_ratio_at,
    distance_recall_at,
    fraction_below,
)


def test_distance_ratio_by_hand() -> None:
    """Distances 0.1 + 0.4 against 0.1 + 0.2.

    One result of two is compared with the nearest neighbor only; none gives NaN.
    """
    scores, exact = np.array([[0.9, 0.6], [0.8, 0], [0, 0]], np.float32), np.array([[0.9, 0.8]] * 3, np.float32)
    ids = np.array([[1, 2], [3, -1], [-1, -1]])
    ratio = distance_ratio_at(scores, ids, exact, 2, higher_is_better=True)
    assert ratio[:2] == pytest.approx([0.5 / 0.3, 0.2 / 0.1], rel=1e-5)
    assert np.isnan(ratio[2])


def test_l2_distances_are_not_squared() -> None:
    """FAISS gives 4 and 9 for distances 2 and 3: the ratio is 3/2.

    By ann-benchmarks' rule, 1.0012 is too far and 1.0008 is not.
    """
    ids = np.array([[1]])
    assert distance_ratio_at(np.array([[9.0]]), ids, np.array([[4.0]]), 1, higher_is_better=False) == pytest.approx([1.5])
    for distance, counted in ((1.0012, 0), (1.0008, 1)):
        assert distance_recall_at(np.array([[distance**2]]), ids, np.array([[1.0]]), 1, higher_is_better=False).tolist() == [counted]


def test_a_query_equal_to_its_neighbors_has_no_ratio() -> None:
    """A ratio to distance 0 is undefined."""
    assert np.isnan(distance_ratio_at(np.array([[0.5]]), np.array([[1]]), np.array([[1.0]]), 1, higher_is_better=True)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from([faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]))
def test_exact_results_have_ratio_one_and_others_at_least_one(seed: int, k: int, metric: int) -> None:
    """Exact search of a part of the database is an approximate search of the whole."""
    random = np.random.default_rng(seed)
    queries, database = (random.standard_normal((count, 5)) for count in (6, 40))
    queries, database = ((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (queries, database))
    ids, higher_is_better = np.arange(40), metric == faiss.METRIC_INNER_PRODUCT
    exact_scores, exact = exact_search(queries, [(ids, database)], k, metric)
    part = np.sort(random.permutation(40)[:20])
    scores, retrieved = exact_search(queries, [(part, database[part])], k, metric)
    assert distance_ratio_at(exact_scores, exact, exact_scores, k, higher_is_better=higher_is_better) == pytest.approx(np.ones(6))
    assert (distance_ratio_at(scores, retrieved, exact_scores, k, higher_is_better=higher_is_better) >= 1 - 1e-6).all()
    by_ids, by_distance = (
        ann_recall_at(retrieved, exact, k),
        distance_recall_at(scores, retrieved, exact_scores, k, higher_is_better=higher_is_better),
    )
    assert (by_ids <= by_distance + 1e-12).all()


def test_common_ids_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are those of Python's sets; empty ranks never match."""
    random = np.random.default_rng(0)
    left, right = (np.stack([random.permutation(12)[:5] - 1 for _ in range(20)]) for _ in range(2))
    expected = [len((set(a) & set(b)) - {-1}) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert count_common(left, right).tolist() == expected
    monkeypatch.setattr("indexmill.tasks.metrics.neighbors.ID_PAIRS_AT_ONCE", 3)
    assert count_common(left, right).tolist() == expected


def test_the_fraction_below_half_excludes_half() -> None:
    """0.5 is not below 0.5."""
    assert fraction_below(np.array([0, 0.49, 0.5, 1])) == 0.5
    assert np.isnan(fraction_below(np.empty(0)))


def test_ann_recall_divides_by_k_or_by_the_database_size() -> None:
    """Two of three exact neighbors give 2/3; both items of a database of two give 1, not 2/3."""
    retrieved = np.array([[1, 2, 9], [5, 6, -1]])
    exact = np.array([[1, 2, 3], [5, 6, -1]])
    assert ann_recall_at(retrieved, exact, 3) == pytest.approx([2 / 3, 1])


def test_distance_recall_forgives_ties() -> None:
    """An item as near as the k-th exact one counts in spite of its id; one that is 0.01 farther does not."""
    retrieved, ids = np.array([[0.9, 0.8, 0.79]], np.float32), np.array([[1, 2, 3]])
    assert distance_recall_at(retrieved, ids, np.array([[0.9, 0.8, 0.8]], np.float32), 3, higher_is_better=True) == pytest.approx([2 / 3])
    assert distance_recall_at(retrieved, ids, np.array([[0.9, 0.8, 0.79]], np.float32), 3, higher_is_better=True).tolist() == [1]


def test_churn_is_the_fraction_of_replaced_results() -> None:
    """Another order 0.

    One of four new 1/4; nothing in common 1; both empty 0; a list that shrank from 4 to 2 lost half.
    """
    baseline = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [-1, -1, -1, -1], [1, 2, 3, 4]])
    candidate = np.array([[4, 3, 2, 1], [1, 2, 3, 9], [5, 6, 7, 8], [-1, -1, -1, -1], [1, 2, -1, -1]])
    assert churn_at(baseline, candidate, 4).tolist() == [0, 0.25, 1, 0, 0.5]
    assert churn_at(baseline, candidate, 1).tolist() == [1, 0, 1, 0, 0]


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_churn_is_symmetric(seed: int, k: int) -> None:
    """It is between 0 and 1, and does not depend on the direction or on the order within the first k."""
    random = np.random.default_rng(seed)
    baseline, candidate = (np.stack([random.permutation(15)[:10] for _ in range(4)]) for _ in range(2))
    churn = churn_at(baseline, candidate, k)
    assert ((churn >= 0) & (churn <= 1)).all()
    assert churn.tolist() == churn_at(candidate, baseline, k).tolist()
    shuffled = np.concatenate([random.permuted(baseline[:, :k], axis=1), baseline[:, k:]], axis=1)
    assert churn_at(shuffled, candidate, k).tolist() == churn.tolist()
