"""Exact search over blocks, and the selection of the best results."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from indexmill.tasks.metrics.exact_search import exact_search, select_top_k


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
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


def test_ties_are_ordered_by_id_and_empty_ranks_come_last() -> None:
    """Ids 9 and 4 tie at 0.5; -1 marks an empty rank, whatever its score."""
    scores = np.array([[0.5, 0.9, 0.5, 3.0]], np.float32)
    ids = np.array([[9, 7, 4, -1]], np.int64)
    assert select_top_k(scores, ids, 4, higher_is_better=True)[1].tolist() == [[7, 4, 9, -1]]
    assert select_top_k(scores, ids, 4, higher_is_better=False)[1].tolist() == [[4, 9, 7, -1]]
