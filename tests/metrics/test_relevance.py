"""Relevance measures, worked by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from indexmill.tasks.metrics.ranking import average_precision, precision_at, recall_at, reciprocal_rank

# Two queries, five results each. The first has 3 relevant items in the database, of which it finds those at ranks 1 and 4;
# the second has 4 and finds those at ranks 2, 3 and 5.
HITS = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=bool)
RELEVANT = np.array([3, 4])


def test_precision_divides_by_k() -> None:
    """P@1 = 1/1, 0/1; P@3 = 1/3, 2/3; P@5 = 2/5, 3/5; P@10 divides by ten though five were found."""
    assert precision_at(HITS, 1).tolist() == [1, 0]
    assert precision_at(HITS, 3) == pytest.approx([1 / 3, 2 / 3])
    assert precision_at(HITS, 10) == pytest.approx([2 / 10, 3 / 10])


def test_recall_divides_by_the_relevant_items_of_the_database() -> None:
    """R@3 = 1/3, 2/4; R@5 = 2/3, 3/4."""
    assert recall_at(HITS, RELEVANT, 3) == pytest.approx([1 / 3, 2 / 4])
    assert recall_at(HITS, RELEVANT, 5) == pytest.approx([2 / 3, 3 / 4])


def test_average_precision_counts_what_was_never_found() -> None:
    """AP = (1/1 + 2/4) / 3 and (1/2 + 2/3 + 3/5) / 4."""
    assert average_precision(HITS, RELEVANT) == pytest.approx([(1 + 2 / 4) / 3, (1 / 2 + 2 / 3 + 3 / 5) / 4])


def test_reciprocal_rank_is_zero_where_nothing_was_found() -> None:
    """1/1, 1/2, and 0 for a query without a hit."""
    assert reciprocal_rank(np.vstack([HITS, np.zeros(5, bool)])).tolist() == [1, 0.5, 0]


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_average_precision_agrees_with_scikit_learn_where_the_ranking_is_whole(hits: list[bool]) -> None:
    """With every item ranked and no ties, both definitions are the same sum."""
    scores = np.arange(len(hits), 0, -1)
    ours = average_precision(np.array([hits]), np.array([sum(hits)]))[0]
    assert ours == pytest.approx(average_precision_score(hits, scores))
