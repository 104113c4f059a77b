"""R-precision, hit rate, nDCG and judged pairs, worked by hand."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from indexmill.tasks.metrics.qrels import Qrels
from indexmill.tasks.metrics.ranking import (
    average_precision,
    average_precision_at,
    hit_rate_at,
    ideal_hits,
    ndcg_at,
    r_precision,
    reciprocal_rank,
)

HITS = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=bool)
RELEVANT = np.array([3, 9])


def test_r_precision_counts_places_beyond_the_depth_as_misses() -> None:
    """One relevant item among the first 3; of 9 relevant items 3 among the 5 places there are."""
    assert r_precision(HITS, RELEVANT) == pytest.approx([1 / 3, 3 / 9])


def test_hit_rate_is_one_from_the_first_hit_on() -> None:
    """Rank 1 and rank 2."""
    assert hit_rate_at(HITS, 1).tolist() == [1, 0]
    assert hit_rate_at(HITS, 2).tolist() == [1, 1]


def test_average_precision_at_k_keeps_the_whole_denominator() -> None:
    """AP@3: 1/1 over 3 relevant items, and (1/2 + 2/3) over 9, though 3 places cannot hold 9."""
    assert average_precision_at(HITS, RELEVANT, 3) == pytest.approx([1 / 3, (1 / 2 + 2 / 3) / 9])


def test_a_ranking_of_no_places_is_worth_nothing() -> None:
    """Depth 0: an empty database."""
    empty = np.zeros((2, 0), bool)
    for figures in (average_precision(empty, RELEVANT), reciprocal_rank(empty), r_precision(empty, RELEVANT), hit_rate_at(empty, 5)):
        assert figures.tolist() == [0, 0]


def test_ndcg_of_graded_gains() -> None:
    """Gains 3, 0, 1 found of 3, 2, 1: (3 + 1/2) / (3 + 2/log2(3) + 1/2); at 1 it is 1. A query whose gains are all 0 is worth 0."""
    gains, ideal_gains = np.array([[3.0, 0, 1], [0, 0, 0]]), np.array([[3.0, 2, 1], [0, 0, 0]])
    assert ndcg_at(gains, ideal_gains, 3) == pytest.approx([3.5 / (3.5 + 2 / log2(3)), 0])
    assert ndcg_at(gains, ideal_gains, 1).tolist() == [1, 0]


def test_ndcg_by_label() -> None:
    """Hits at ranks 1 and 4 of 3 relevant items: (1 + 1/log2(5)) / (1 + 1/log2(3) + 1/2)."""
    assert ndcg_at(HITS[:1], ideal_hits(RELEVANT[:1], 5), 5) == pytest.approx([(1 + 1 / log2(5)) / (1.5 + 1 / log2(3))])


def test_judged_pairs_say_what_each_place_is_worth() -> None:
    """Query 0 judged items 7 (worth 2) and 5 (1, said twice: the larger counts); query 1 item 7 as worth 0; query 2 nothing."""
    judged = Qrels(3, np.array([0, 0, 1, 0]), np.array([7, 5, 7, 5]), np.array([2.0, 0.5, 0, 1]))
    assert judged.gains(np.array([[5, 6, 7], [7, 5, -1], [5, 7, 1]])).tolist() == [[1, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert judged.relevant.tolist() == [2, 0, 0]
    assert judged.ideal_gains(3).tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert judged.ideal_gains(1).tolist() == [[2], [0], [0]]


def test_no_judged_pairs_is_no_relevance() -> None:
    """And pairs without gains are worth 1."""
    none = Qrels(2, np.empty(0, np.int64), np.empty(0, np.int64))
    assert none.gains(np.array([[1], [-1]])).tolist() == [[0], [0]]
    assert none.relevant.tolist() == [0, 0]
    assert none.ideal_gains(2).tolist() == [[0, 0], [0, 0]]
    assert Qrels(1, np.array([0]), np.array([4])).gains(np.array([[4]])).tolist() == [[1]]
