"""Means per label, and the largest confusions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.per_label import UNLABELED, Confusion, average_per_label, find_largest_confusions, macro_average


def test_means_divide_by_the_queries_of_the_label() -> None:
    """Label 2 has 1 and 0, label 5 has 0.5; the unlabeled query is left out."""
    codes, queries, means = average_per_label(np.array([2, 5, 2, UNLABELED]), {"map": np.array([1, 0.5, 0, 9])})
    assert codes.tolist() == [2, 5]
    assert queries.tolist() == [2, 1]
    assert means["map"].tolist() == [0.5, 0.5]
    assert macro_average(means["map"]) == 0.5


def test_without_labels_there_is_no_mean() -> None:
    """Arrays are empty, the macro average is NaN."""
    codes, queries, means = average_per_label(np.array([UNLABELED]), {"map": np.array([1.0])})
    assert (codes.tolist(), queries.tolist(), means["map"].tolist()) == ([], [], [])
    assert np.isnan(macro_average(means["map"]))


def test_confusions_by_hand() -> None:
    """Two queries of label 0 retrieve 0, 1, 1 and 1, 2, nothing; one of label 3 retrieves 3, 0, unlabeled.

    Rank 4 is beyond k.
    """
    query_labels = np.array([0, 0, 3])
    retrieved = np.array([[0, 1, 1, 2], [1, 2, UNLABELED, 2], [3, 0, UNLABELED, 0]])
    assert find_largest_confusions([(query_labels, retrieved)], 3) == [
        Confusion(0, 1, 3, pytest.approx(3 / 5)),
        Confusion(0, 2, 1, pytest.approx(1 / 5)),
        Confusion(3, 0, 1, pytest.approx(1 / 2)),
    ]
    assert find_largest_confusions([(query_labels, retrieved)], 3, limit=1) == [Confusion(0, 1, 3, pytest.approx(3 / 5))]
    assert find_largest_confusions([], 3) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_confusions_in_blocks_agree_with_a_counter(seed: int, pieces: int) -> None:
    """Descending count, then query label, then retrieved label."""
    random = np.random.default_rng(seed)
    query_labels, retrieved = random.integers(-1, 5, 20), random.integers(-1, 5, (20, 6))
    counted = Counter((q, f) for q, row in zip(query_labels.tolist(), retrieved[:, :4].tolist(), strict=True) for f in row if q >= 0 <= f)
    expected = sorted(((-count, *pair) for pair, count in counted.items() if pair[0] != pair[1]))
    blocks = zip(np.array_split(query_labels, pieces), np.array_split(retrieved, pieces), strict=True)
    assert [(-c.count, c.query, c.retrieved) for c in find_largest_confusions(blocks, 4, limit=100)] == expected
