"""Exact search over blocks, and the selection of the best results."""

from __future__ import annotations

import itertools

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics import exact_search as exact_search_module
from indexmill.tasks.metrics.exact_search import DEEP_K, exact_search, select_top_k

METRICS = [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2]


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_over_blocks_agrees_with_numpy(metric: int) -> None:
    """Blocks of 70 and 20 items, ids in random order."""
    random = np.random.default_rng(0)
    queries, database = (random.standard_normal((count, 8)).astype(np.float32) for count in (20, 300))
    ids = random.permutation(10_000)[:300].astype(np.int64)
    blocks = [(ids[start : start + 70], database[start : start + 70]) for start in range(0, 300, 70)]
    scores, retrieved = exact_search(queries, blocks, 10, metric)
    if metric == faiss.METRIC_L2:
        all_scores = ((queries[:, None] - database[None]) ** 2).sum(axis=2)
        order = np.argsort(all_scores, axis=1)[:, :10]
    else:
        all_scores = queries @ database.T
        order = np.argsort(-all_scores, axis=1)[:, :10]
    assert retrieved.tolist() == ids[order].tolist()
    assert scores == pytest.approx(np.take_along_axis(all_scores, order, axis=1), abs=1e-4)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(METRICS),
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.integers(1, 40) | st.integers(DEEP_K, DEEP_K + 60),
    st.booleans(),
    st.integers(0, 99),
)
def test_search_ranks_as_sorting_all_items_does(metric: int, sizes: list[int], k: int, tied: bool, seed: int) -> None:
    """Blocks smaller and larger than k, fewer items than k, and small whole numbers, whose sums are exact and tie often."""
    random = np.random.default_rng(seed)
    count = sum(sizes)
    queries, database = (random.integers(-3, 4, (rows, 4)).astype(np.float32) for rows in (7, count))
    if not tied:
        database += random.permutation(count)[:, None].astype(np.float32) * np.float32([1 / 128, 0, 0, 0])  # sums stay exact
    ids = random.permutation(10_000)[:count].astype(np.int64)
    bounds = np.cumsum([0, *sizes])
    blocks = [(ids[start:end], database[start:end]) for start, end in itertools.pairwise(bounds)]
    scores, retrieved = exact_search(queries, blocks, k, metric)
    is_product = metric == faiss.METRIC_INNER_PRODUCT
    every = queries @ database.T if is_product else ((queries[:, None] - database[None]) ** 2).sum(axis=2)
    for row in range(len(queries)):
        order = sorted(range(count), key=lambda column: (-every[row, column] if is_product else every[row, column], ids[column]))[:k]
        filled = len(order)
        assert retrieved[row, :filled].tolist() == ids[order].tolist()
        assert scores[row, :filled].tolist() == every[row, order].tolist()
        assert (retrieved[row, filled:] == -1).all()
        assert (scores[row, filled:] == (-np.inf if is_product else np.inf)).all()


@pytest.mark.parametrize("k", [10, DEEP_K])
def test_search_in_tiles_is_the_same(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few queries at a time give the answers of all at once."""
    random = np.random.default_rng(1)
    queries, database = (random.integers(-1, 2, (rows, 3)).astype(np.float32) for rows in (20, 400))  # many ties
    blocks = [(np.arange(start, start + 100), database[start : start + 100]) for start in range(0, 400, 100)]
    whole = exact_search(queries, blocks, k, faiss.METRIC_L2)
    monkeypatch.setattr(exact_search_module, "SELECTION_BYTES", 3 * (DEEP_K + 100) * 12)
    tiled = exact_search(queries, blocks, k, faiss.METRIC_L2)
    assert [array.tolist() for array in tiled] == [array.tolist() for array in whole]


def test_ties_are_ordered_by_id_and_empty_ranks_come_last() -> None:
    """Ids 9 and 4 tie at 0.5; -1 marks an empty rank, whatever its score."""
    scores = np.array([[0.5, 0.9, 0.5, 3.0]], np.float32)
    ids = np.array([[9, 7, 4, -1]], np.int64)
    assert select_top_k(scores, ids, 4, higher_is_better=True)[1].tolist() == [[7, 4, 9, -1]]
    assert select_top_k(scores, ids, 4, higher_is_better=False)[1].tolist() == [[4, 9, 7, -1]]


@pytest.mark.parametrize("metric", METRICS)
def test_of_many_equal_items_those_with_the_smallest_ids_are_found(metric: int) -> None:
    """Ids from 60 down to 1 are equal, 0 is worse: the best are 1, 2 and 3, whichever FAISS takes."""
    database = np.ones((61, 4), np.float32)
    database[-1] = -1
    ids = np.arange(60, -1, -1)
    assert exact_search(database[:1], [(ids, database)], 3, metric)[1].tolist() == [[1, 2, 3]]
