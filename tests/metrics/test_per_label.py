"""Means label by label, and which labels are taken for which."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.per_label import UNLABELED, Confusion, average_per_label, find_largest_confusions, macro_average


def test_means_divide_by_the_queries_of_the_label() -> None:
    """Label 2 has 1 and 0, label 5 has 0.5; the query without a label is nobody's."""
    codes, queries, means = average_per_label(np.array([2, 5, 2, UNLABELED]), {"map": np.array([1, 0.5, 0, 9])})
    assert codes.tolist() == [2, 5]
    assert queries.tolist() == [2, 1]
    assert means["map"].tolist() == [0.5, 0.5]
    assert macro_average(means["map"]) == 0.5


def test_no_labels_is_no_mean() -> None:
    """Empty arrays; NaN."""
    codes, queries, means = average_per_label(np.array([UNLABELED]), {"map": np.array([1.0])})
    assert (codes.tolist(), queries.tolist(), means["map"].tolist()) == ([], [], [])
    assert np.isnan(macro_average(means["map"]))


def test_confusions_by_hand() -> None:
    """Label 0 asked twice: found 0, 1, 1 and 1, 2, nothing; label 3 once: 3, 0, unlabelled. Rank 4 is beyond k."""
    wanted = np.array([0, 0, 3])
    retrieved = np.array([[0, 1, 1, 2], [1, 2, UNLABELED, 2], [3, 0, UNLABELED, 0]])
    assert find_largest_confusions([(wanted, retrieved)], 3) == [
        Confusion(0, 1, 3, pytest.approx(3 / 5)), Confusion(0, 2, 1, pytest.approx(1 / 5)), Confusion(3, 0, 1, pytest.approx(1 / 2)),
    ]  # fmt: skip
    assert find_largest_confusions([(wanted, retrieved)], 3, limit=1) == [Confusion(0, 1, 3, pytest.approx(3 / 5))]
    assert find_largest_confusions([], 3) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_confusions_in_blocks_are_pythons_count(seed: int, pieces: int) -> None:
    """Largest first, then by query label, then by found label."""
    random = np.random.default_rng(seed)
    wanted, retrieved = random.integers(-1, 5, 20), random.integers(-1, 5, (20, 6))
    counted = Counter((q, f) for q, row in zip(wanted.tolist(), retrieved[:, :4].tolist(), strict=True) for f in row if q >= 0 <= f)
    expected = sorted(((-count, *pair) for pair, count in counted.items() if pair[0] != pair[1]))
    blocks = zip(np.array_split(wanted, pieces), np.array_split(retrieved, pieces), strict=True)
    assert [(-c.count, c.query, c.retrieved) for c in find_largest_confusions(blocks, 4, limit=100)] == expected
