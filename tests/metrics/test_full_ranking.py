"""Average precision over the whole database, against scikit-learn and a plain ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from indexmill.tasks.metrics.full_ranking import compute_relevant_ranks, full_average_precision
from indexmill.tasks.metrics.per_label import UNLABELED
from indexmill.tasks.metrics.ranking import average_precision


def test_without_ties_it_is_scikit_learns() -> None:
    """Random vectors of five labels."""
    random = np.random.default_rng(0)
    queries, database = (random.standard_normal((count, 6)).astype(np.float32) for count in (12, 200))
    asked, labels = random.integers(0, 5, 12), random.integers(0, 5, 200)
    expected = [average_precision_score(labels == label, database @ query) for query, label in zip(queries, asked, strict=True)]
    assert full_average_precision(queries, asked, database, labels) == pytest.approx(expected)


def test_ranks_by_hand() -> None:
    """Scores 3 2 2 1: the relevant 2 stands behind the other by row; two relevant ones that tie need no order."""
    scores = np.array([2, 3, 2, 1], np.float32)
    assert compute_relevant_ranks(scores, np.array([False, False, True, True])).tolist() == [3, 4]
    assert compute_relevant_ranks(scores, np.array([True, False, False, True])).tolist() == [2, 4]
    assert compute_relevant_ranks(scores, np.array([True, False, True, False])).tolist() == [2, 3]
    assert compute_relevant_ranks(scores, np.array([False, True, False, False])).tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_with_ties_and_own_items_it_is_a_stable_sort_without_them(seed: int, at_once: int) -> None:
    """Whole numbers tie exactly; own items leave the ranking and the denominator; no label is nobody's."""
    random = np.random.default_rng(seed)
    queries, database = (random.integers(-1, 2, (count, 3)).astype(np.float32) for count in (5, 20))
    asked, labels = random.integers(-1, 3, 5), random.integers(-1, 3, 20)
    own = np.unique(np.stack([random.integers(0, 5, 8), random.integers(0, 20, 8)], axis=1), axis=0)
    expected = []
    for row, (query, label) in enumerate(zip(queries, asked, strict=True)):
        left = np.setdiff1d(np.arange(20), own[own[:, 0] == row, 1])
        order = left[np.argsort(-(database[left] @ query), kind="stable")]
        hits = (labels[order] == label) & (label != UNLABELED)
        expected.append(average_precision(hits[None], np.array([hits.sum()]))[0] if hits.any() else np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.metrics.full_ranking.SCORES_AT_ONCE", at_once)
        patch.setattr("indexmill.tasks.metrics.full_ranking.MAX_SEPARATE_TIES", at_once % 4)
        assert full_average_precision(queries, asked, database, labels, own) == pytest.approx(expected, nan_ok=True)
