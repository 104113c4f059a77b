"""Brute force in NumPy agrees with exact search in FAISS, and ties are broken by ascending id."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.studies import brute_force
from indexmill.tasks.studies.brute_force import BruteForce, select_smallest


def test_ties_at_the_cutoff_are_broken_by_ascending_column() -> None:
    """By hand: of three ones the first two are taken, whichever the partial sort picked."""
    keys = np.array([[3.0, 1, 2, 1, 1], [5, 4, 3, 2, 1]], np.float32)
    values, columns = select_smallest(keys, 2)
    assert columns.tolist() == [[1, 3], [4, 3]]
    assert values.tolist() == [[1, 1], [1, 2]]
    assert select_smallest(keys, 5)[1].tolist() == [[1, 3, 4, 2, 0], [4, 3, 2, 1, 0]]


@given(
    seed=st.integers(0, 2**32),
    items=st.integers(1, 60),
    query_count=st.integers(1, 9),
    k=st.integers(1, 12),
    block_scores=st.sampled_from([1, 100, 10**6]),
    metric=st.sampled_from([faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]),
)
@settings(max_examples=80, deadline=None)
def test_results_equal_exact_search(seed: int, items: int, query_count: int, k: int, block_scores: int, metric: int) -> None:
    """Vectors of small integers make sums exact and ties frequent: ids and scores are equal for every block size."""
    random = np.random.default_rng(seed)
    database, queries = (random.integers(-2, 3, (count, 4)).astype(np.float32) for count in (items, query_count))
    ids, k = np.sort(random.choice(10**9, items, replace=False)), min(k, items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brute_force, "MAX_SCORES_PER_BLOCK", block_scores)
        scores, retrieved = BruteForce(ids, database, metric).search(queries, k)
    # All items are searched for, since the cutoff of exact search picks arbitrarily among ties.
    exact_scores, exact = exact_search(queries, [(ids, database)], items, metric)
    assert retrieved.tolist() == exact[:, :k].tolist()
    assert scores.tolist() == exact_scores[:, :k].tolist()
