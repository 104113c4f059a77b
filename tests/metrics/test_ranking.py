"""Full rankings, and what holds of the measures of any ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import a_run, ours

from indexmill.tasks.metrics.full_ranking import argsort_descending, iterate_full_rankings
from indexmill.tasks.metrics.ranking import compute_query_metrics


def test_measures_in_small_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven places at a time, so every query alone."""
    _, _, found, judged, _ = a_run(9)
    whole = ours(found, judged)
    monkeypatch.setattr("indexmill.tasks.metrics.ranking.RANKS_AT_ONCE", 7)
    assert {name: column.tolist() for name, column in ours(found, judged).items()} == {n: c.tolist() for n, c in whole.items()}


def test_equal_scores_stand_by_ascending_column() -> None:
    """-0.0 equals 0.0, minus infinity is last, and 1e-45 is more than 0."""
    scores = np.array([[-0.0, 2.0, 0.0, -np.inf, 2.0, -3.0, 1e-45]], np.float32)
    assert argsort_descending(scores).tolist() == [[1, 4, 6, 0, 2, 5, 3]]


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_descending_is_a_stable_sort(seed: int, count: int) -> None:
    """Any bits that are a number: huge, tiny, subnormal, infinite; and each of them twice or more."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    row = random.choice(np.where(np.isnan(bits), np.float32(np.inf), bits), (2, count))
    assert argsort_descending(row).tolist() == np.argsort(-row, axis=1, kind="stable").tolist()


def test_full_rankings_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two queries over five rows; whole numbers, so that the products are exact and tie."""
    monkeypatch.setattr("indexmill.tasks.metrics.full_ranking.RANKING_SCORES_AT_ONCE", 10)
    random = np.random.default_rng(0)
    queries, database = random.integers(-2, 3, (5, 3)).astype(np.float32), random.integers(-2, 3, (5, 3)).astype(np.float32)
    blocks = list(iterate_full_rankings(queries, database))
    assert [(at.start, at.stop) for at, _ in blocks] == [(0, 2), (2, 4), (4, 5)]
    ranked = np.concatenate([rows for _, rows in blocks])
    assert ranked.tolist() == np.argsort(-(queries @ database.T), axis=1, kind="stable").tolist()


@settings(max_examples=50)
@given(st.data())
def test_measures_stay_within_their_bounds_and_rise_with_k(data: st.DataObject) -> None:
    """All lie in 0 to 1; recall, hit rate and AP never fall as k grows; a relevant item moved up never lowers AP, RR or nDCG."""
    hits = np.array([data.draw(st.lists(st.booleans(), min_size=2, max_size=25))])
    relevant = np.array([max(1, int(hits.sum())) + data.draw(st.integers(0, 5))])
    ks = tuple(range(1, 30))
    columns = compute_query_metrics(hits, relevant, ks)
    assert all(0 <= column[0] <= 1 + 1e-12 for column in columns.values())
    for measure in ("recall", "hit_rate", "map"):
        steps = [columns[f"{measure}_at_{k}"][0] for k in ks]
        assert steps == sorted(steps)
    assert columns["map_at_29"] == pytest.approx(columns["map"])
    place = data.draw(st.integers(1, hits.shape[1] - 1))
    better = hits.copy()
    better[0, [place - 1, place]] = np.sort(hits[0, [place - 1, place]])[::-1]
    improved = compute_query_metrics(better, relevant, ks)
    for measure in ("map", "mrr", "ndcg_at_29", "ndcg_at_3", "precision_at_3"):
        assert improved[measure][0] >= columns[measure][0] - 1e-12


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
