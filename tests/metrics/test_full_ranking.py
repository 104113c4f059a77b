"""Average precision over the whole database."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from indexmill.tasks.metrics.full_ranking import argsort_descending, compute_relevant_ranks, full_average_precision
from indexmill.tasks.metrics.per_label import UNLABELED
from indexmill.tasks.metrics.ranking import average_precision


def test_without_ties_it_agrees_with_scikit_learn() -> None:
    """Random vectors of five labels."""
    random = np.random.default_rng(0)
    queries, database = (random.standard_normal((count, 6)).astype(np.float32) for count in (12, 200))
    query_labels, labels = random.integers(0, 5, 12), random.integers(0, 5, 200)
    expected = [average_precision_score(labels == label, database @ query) for query, label in zip(queries, query_labels, strict=True)]
    assert full_average_precision(queries, query_labels, database, labels) == pytest.approx(expected)


def test_ranks_of_relevant_items() -> None:
    """Scores 3 2 2 1: of the tied scores, the one in the earlier row comes first."""
    scores = np.array([2, 3, 2, 1], np.float32)
    assert compute_relevant_ranks(scores, np.array([False, False, True, True])).tolist() == [3, 4]
    assert compute_relevant_ranks(scores, np.array([True, False, False, True])).tolist() == [2, 4]
    assert compute_relevant_ranks(scores, np.array([True, False, True, False])).tolist() == [2, 3]
    assert compute_relevant_ranks(scores, np.array([False, True, False, False])).tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_with_ties_and_own_items_it_agrees_with_a_stable_sort(seed: int, at_once: int) -> None:
    """Integers tie exactly; own items leave the ranking and the denominator; unlabeled items are never relevant."""
    random = np.random.default_rng(seed)
    queries, database = (random.integers(-1, 2, (count, 3)).astype(np.float32) for count in (5, 20))
    query_labels, labels = random.integers(-1, 3, 5), random.integers(-1, 3, 20)
    own = np.unique(np.stack([random.integers(0, 5, 8), random.integers(0, 20, 8)], axis=1), axis=0)
    expected = []
    for row, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
        remaining = np.setdiff1d(np.arange(20), own[own[:, 0] == row, 1])
        order = remaining[np.argsort(-(database[remaining] @ query), kind="stable")]
        hits = (labels[order] == label) & (label != UNLABELED)
        expected.append(average_precision(hits[None], np.array([hits.sum()]))[0] if hits.any() else np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.metrics.full_ranking.SCORES_AT_ONCE", at_once)
        patch.setattr("indexmill.tasks.metrics.full_ranking.MAX_SEPARATE_TIES", at_once % 4)
        assert full_average_precision(queries, query_labels, database, labels, own) == pytest.approx(expected, nan_ok=True)


def test_equal_scores_are_ordered_by_column() -> None:
    """-0.0 equals 0.0, minus infinity is last, and 1e-45 is more than 0."""
    scores = np.array([[-0.0, 2.0, 0.0, -np.inf, 2.0, -3.0, 1e-45]], np.float32)
    assert argsort_descending(scores).tolist() == [[1, 4, 6, 0, 2, 5, 3]]


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_argsort_descending_agrees_with_a_stable_sort(seed: int, count: int) -> None:
    """Any float32 bits but NaN: huge, tiny, subnormal, infinite, each repeated."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    row = random.choice(np.where(np.isnan(bits), np.float32(np.inf), bits), (2, count))
    assert argsort_descending(row).tolist() == np.argsort(-row, axis=1, kind="stable").tolist()
