"""Relevance metrics, worked by hand and compared with scikit-learn."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import compute_metrics, make_run
from sklearn.metrics import average_precision_score

from indexmill.tasks.metrics.ranking import (
    average_precision,
    average_precision_at,
    compute_query_metrics,
    hit_rate_at,
    ideal_hits,
    ndcg_at,
    precision_at,
    r_precision,
    recall_at,
    reciprocal_rank,
)

# Two queries, five results each. The first has 3 relevant items in the database, of which it retrieves those at ranks 1
# and 4; the second has 4 and retrieves those at ranks 2, 3 and 5.
HITS = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]], dtype=bool)
RELEVANT = np.array([3, 4])
MANY_RELEVANT = np.array([3, 9])


def test_precision_divides_by_k() -> None:
    """P@1 = 1/1, 0/1; P@3 = 1/3, 2/3; P@5 = 2/5, 3/5; P@10 divides by ten although five were retrieved."""
    assert precision_at(HITS, 1).tolist() == [1, 0]
    assert precision_at(HITS, 3) == pytest.approx([1 / 3, 2 / 3])
    assert precision_at(HITS, 10) == pytest.approx([2 / 10, 3 / 10])


def test_recall_divides_by_the_relevant_items_of_the_database() -> None:
    """R@3 = 1/3, 2/4; R@5 = 2/3, 3/4."""
    assert recall_at(HITS, RELEVANT, 3) == pytest.approx([1 / 3, 2 / 4])
    assert recall_at(HITS, RELEVANT, 5) == pytest.approx([2 / 3, 3 / 4])


def test_average_precision_counts_items_that_were_not_retrieved() -> None:
    """AP = (1/1 + 2/4) / 3 and (1/2 + 2/3 + 3/5) / 4."""
    assert average_precision(HITS, RELEVANT) == pytest.approx([(1 + 2 / 4) / 3, (1 / 2 + 2 / 3 + 3 / 5) / 4])


def test_reciprocal_rank_is_zero_without_a_hit() -> None:
    """1/1, 1/2, and 0 for a query without a hit."""
    assert reciprocal_rank(np.vstack([HITS, np.zeros(5, bool)])).tolist() == [1, 0.5, 0]


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_average_precision_of_a_full_ranking_agrees_with_scikit_learn(hits: list[bool]) -> None:
    """With every item ranked and no ties, both definitions are the same sum."""
    scores = np.arange(len(hits), 0, -1)
    ours = average_precision(np.array([hits]), np.array([sum(hits)]))[0]
    assert ours == pytest.approx(average_precision_score(hits, scores))


def test_r_precision_counts_ranks_beyond_the_depth_as_misses() -> None:
    """One relevant item among the first 3; of 9 relevant items 3 among the 5 ranks."""
    assert r_precision(HITS, MANY_RELEVANT) == pytest.approx([1 / 3, 3 / 9])


def test_hit_rate_is_one_from_the_first_hit_on() -> None:
    """Rank 1 and rank 2."""
    assert hit_rate_at(HITS, 1).tolist() == [1, 0]
    assert hit_rate_at(HITS, 2).tolist() == [1, 1]


def test_average_precision_at_k_keeps_the_whole_denominator() -> None:
    """AP@3: 1/1 over 3 relevant items, and (1/2 + 2/3) over 9, although 3 ranks cannot hold 9."""
    assert average_precision_at(HITS, MANY_RELEVANT, 3) == pytest.approx([1 / 3, (1 / 2 + 2 / 3) / 9])


def test_an_empty_ranking_scores_zero() -> None:
    """Depth 0: an empty database."""
    empty = np.zeros((2, 0), bool)
    for values in (
        average_precision(empty, MANY_RELEVANT),
        reciprocal_rank(empty),
        r_precision(empty, MANY_RELEVANT),
        hit_rate_at(empty, 5),
    ):
        assert values.tolist() == [0, 0]


def test_ndcg_of_graded_gains() -> None:
    """Gains 3, 0, 1 of the ideal 3, 2, 1: (3 + 1/2) / (3 + 2/log2(3) + 1/2); at 1 it is 1.

    A query whose gains are all 0 has nDCG 0.
    """
    gains, ideal_gains = np.array([[3.0, 0, 1], [0, 0, 0]]), np.array([[3.0, 2, 1], [0, 0, 0]])
    assert ndcg_at(gains, ideal_gains, 3) == pytest.approx([3.5 / (3.5 + 2 / log2(3)), 0])
    assert ndcg_at(gains, ideal_gains, 1).tolist() == [1, 0]


def test_ndcg_by_label() -> None:
    """Hits at ranks 1 and 4 of 3 relevant items: (1 + 1/log2(5)) / (1 + 1/log2(3) + 1/2)."""
    assert ndcg_at(HITS[:1], ideal_hits(MANY_RELEVANT[:1], 5), 5) == pytest.approx([(1 + 1 / log2(5)) / (1.5 + 1 / log2(3))])


def test_blocks_do_not_change_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven ranks at a time, so one query at a time."""
    run = make_run(9)
    whole = compute_metrics(run)
    monkeypatch.setattr("indexmill.tasks.metrics.ranking.RANKS_AT_ONCE", 7)
    assert {name: column.tolist() for name, column in compute_metrics(run).items()} == {n: c.tolist() for n, c in whole.items()}


@settings(max_examples=50)
@given(st.data())
def test_metrics_stay_within_their_bounds_and_rise_with_k(data: st.DataObject) -> None:
    """All are between 0 and 1; recall, hit rate and AP never fall as k grows."""
    hits = np.array([data.draw(st.lists(st.booleans(), min_size=2, max_size=25))])
    relevant = np.array([max(1, int(hits.sum())) + data.draw(st.integers(0, 5))])
    ks = tuple(range(1, 30))
    columns = compute_query_metrics(hits, relevant, ks)
    assert all(0 <= column[0] <= 1 + 1e-12 for column in columns.values())
    for metric in ("recall", "hit_rate", "map"):
        steps = [columns[f"{metric}_at_{k}"][0] for k in ks]
        assert steps == sorted(steps)
    assert columns["map_at_29"] == pytest.approx(columns["map"])
    rank = data.draw(st.integers(1, hits.shape[1] - 1))
    better = hits.copy()
    better[0, [rank - 1, rank]] = np.sort(hits[0, [rank - 1, rank]])[::-1]
    improved = compute_query_metrics(better, relevant, ks)
    for metric in ("map", "mrr", "ndcg_at_29", "ndcg_at_3", "precision_at_3"):
        assert improved[metric][0] >= columns[metric][0] - 1e-12


@settings(max_examples=25)
@given(st.permutations(range(6)))
def test_the_order_of_queries_changes_nothing(order: list[int]) -> None:
    """Each query's figures move with it."""
    hits = np.random.default_rng(3).random((6, 12)) < 0.3
    relevant = hits.sum(axis=1) + 1
    straight, moved = compute_query_metrics(hits, relevant, (5,)), compute_query_metrics(hits[order], relevant[order], (5,))
    assert all(moved[name].tolist() == column[order].tolist() for name, column in straight.items())


def test_a_perfect_ranking_is_worth_one() -> None:
    """Three relevant items first: AP, R-precision, RR and nDCG at every k are 1; P@5 is 3/5, R@1 1/3 and AP@1 1/3."""
    columns = compute_query_metrics(np.array([[1, 1, 1, 0, 0]], bool), np.array([3]), (1, 5))
    assert [columns[m][0] for m in ("map", "r_precision", "mrr", "ndcg_at_1", "ndcg_at_5", "hit_rate_at_1")] == pytest.approx([1] * 6)
    assert [columns[m][0] for m in ("precision_at_5", "recall_at_1", "map_at_1")] == pytest.approx([3 / 5, 1 / 3, 1 / 3])
