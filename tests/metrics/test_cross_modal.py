"""Ranks of partners, worked by hand and compared with a plain sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.metrics.cross_modal import compute_cross_modal_metrics, rank_first_partner, rank_partners, summarize_ranks


def test_the_best_partner_counts_and_ties_are_ordered_by_column() -> None:
    """Partners in columns 1 and 3: column 1 is best at rank 2; a tie with an earlier column costs a rank."""
    scores = np.array([[0.9, 0.5, 0.1, 0.4], [0.5, 0.5, 0.5, 0.5], [0.2, 0.9, 0.3, 0.9], [1, 1, 1, 1]], np.float32)
    partners = np.array([[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert rank_first_partner(scores, partners).tolist() == [2, 2, 2, 0]


def test_summaries_leave_out_queries_without_a_partner() -> None:
    """Ranks 1, 3, 6, 20 and one without: recall@1 1/4, @5 2/4, @10 3/4; the median is between 3 and 6."""
    metrics = summarize_ranks(np.array([1, 3, 0, 6, 20]))
    assert metrics == {"recall_at_1": 0.25, "recall_at_5": 0.5, "recall_at_10": 0.75, "median_rank": 4.5}
    assert summarize_ranks(np.array([0])) == {}


def test_both_directions_by_hand() -> None:
    """Image 0 has captions 0 and 1, image 1 caption 2.

    Caption 1 is nearer to image 1; caption 0 is found by image 0.
    """
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    metrics = compute_cross_modal_metrics(texts, images, np.array([0, 0, 1]), np.array([0, 1]))
    assert metrics["text_to_image_recall_at_1"] == pytest.approx(2 / 3)
    assert metrics["text_to_image_median_rank"] == 1
    assert metrics["image_to_text_recall_at_1"] == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_ranks_in_blocks_agree_with_a_stable_sort(seed: int, at_once: int) -> None:
    """Integers, so that many scores tie exactly; random partners, some queries without any."""
    random = np.random.default_rng(seed)
    queries, candidates = (random.integers(-1, 2, (count, 2)).astype(np.float32) for count in (9, 15))
    query_pairs, candidate_pairs = random.integers(0, 8, 9), random.integers(0, 6, 15)
    order = np.argsort(-(queries @ candidates.T), axis=1, kind="stable")
    expected = [
        next((rank for rank, at in enumerate(row, 1) if candidate_pairs[at] == mine), 0)
        for row, mine in zip(order, query_pairs, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.metrics.cross_modal.SCORES_AT_ONCE", at_once)
        assert rank_partners(queries, candidates, query_pairs, candidate_pairs).tolist() == expected


def test_without_candidates_every_rank_is_zero() -> None:
    """An empty database."""
    assert rank_partners(np.ones((2, 3), np.float32), np.empty((0, 3), np.float32), np.zeros(2), np.empty(0)).tolist() == [0, 0]
