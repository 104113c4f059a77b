"""Neighbors that are brought up to date equal those of a search of the whole database."""

from __future__ import annotations

import itertools

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.neighbor_updates import KnownNeighbors, update_neighbors

DIM = 3
METRICS = [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]
# Small whole numbers: sums are exact, and many distances are equal.
Vectors = dict[int, tuple[int, ...]]
vectors = st.tuples(*[st.integers(-2, 2)] * DIM)
databases = st.dictionaries(st.integers(0, 40), vectors, max_size=30)


def search(queries: np.ndarray, database: Vectors, depth: int, metric: int) -> KnownNeighbors:
    ids, rows = to_arrays(database)
    scores, found = exact_search(queries, [(ids, rows)] if database else [], depth, metric)
    return KnownNeighbors(scores, found, np.full(len(queries), len(database) <= depth))


def to_arrays(database: Vectors) -> tuple[np.ndarray, np.ndarray]:
    ids = sorted(database)
    return np.array(ids, np.int64), np.array([database[item] for item in ids], np.float32).reshape(-1, DIM)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=150, deadline=None)
@example(nights=[{0: (0, 0, 0)}, {0: (0, 0, 0), 1: (0, 0, 0), 2: (0, 1, 0)}], queries=[(0, 1, 0)], depth=2)
@given(nights=st.lists(databases, min_size=2, max_size=5), queries=st.lists(vectors, min_size=1, max_size=4), depth=st.integers(1, 8))
def test_known_ranks_are_those_of_a_full_search(metric: int, nights: list[Vectors], queries: list[tuple[int, ...]], depth: int) -> None:
    """Night after night, with ties, with items removed, replaced and added: every rank that is known is right, none is skipped."""
    asked = np.array(queries, np.float32)
    known = search(asked, nights[0], depth, metric)
    for before, after in itertools.pairwise(nights):
        removed = np.array([item for item in before if after.get(item) != before[item]], np.int64)
        added = {item: vector for item, vector in after.items() if before.get(item) != vector}
        known = update_neighbors(known, asked, removed, to_arrays(added), metric)
        expected = search(asked, after, depth, metric)
        for row, count in enumerate(known.count_known()):
            assert known.ids[row, :count].tolist() == expected.ids[row, :count].tolist()
            assert known.scores[row, :count].tolist() == expected.scores[row, :count].tolist()
            assert (known.ids[row, count:] == -1).all()
            assert not known.is_complete[row] or count == len(after)


def test_ranks_are_lost_only_to_removed_items() -> None:
    """On a line, for the query 0 and depth 3: 1, 2 and 3 are known of 1 to 9. Without 2, two are known; with 2.5 added, three."""
    database: Vectors = {number: (number, 0, 0) for number in range(1, 10)}
    query = np.zeros((1, DIM), np.float32)
    known = search(query, database, 3, faiss.METRIC_L2)
    nothing, removed = (np.empty(0, np.int64), np.empty((0, DIM), np.float32)), np.array([2])
    assert update_neighbors(known, query, removed, nothing, faiss.METRIC_L2).ids.tolist() == [[1, 3, -1]]
    added = np.array([99]), np.array([[2.5, 0, 0]], np.float32)
    assert update_neighbors(known, query, removed, added, faiss.METRIC_L2).ids.tolist() == [[1, 99, 3]]
    far = np.array([99]), np.array([[3.5, 0, 0]], np.float32)  # 4 may be nearer, or not: nobody has looked
    assert update_neighbors(known, query, removed, far, faiss.METRIC_L2).ids.tolist() == [[1, 3, -1]]
