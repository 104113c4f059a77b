"""Bootstrap intervals and paired tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from indexmill.tasks.metrics.bootstrap import align_by_query, bootstrap_intervals, compare_paired, draw_resample_counts


def test_intervals_are_scipys_bca() -> None:
    """On skewed values, within the noise of two draws of 40,000 resamples."""
    values = np.random.default_rng(0).exponential(size=(20, 1)) ** 2
    mean, low, high = bootstrap_intervals(values, resamples=40_000, seed=1)
    theirs = stats.bootstrap((values[:, 0],), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(2)).confidence_interval
    assert mean == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert low[0] == pytest.approx(theirs.low, abs=0.02 * width)
    assert high[0] == pytest.approx(theirs.high, abs=0.02 * width)
    percentile = stats.bootstrap((values[:, 0],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2))
    assert abs(percentile.confidence_interval.high - theirs.high) > 0.05 * width  # the two methods differ here, so the test can tell


def test_intervals_of_precision_hold_the_truth_about_as_often_as_they_say() -> None:
    """300 samples of 40 queries whose measure is 1 with probability 0.3: between 90 % and 98 % of the 95 % intervals hold 0.3."""
    samples = (np.random.default_rng(0).random((40, 300)) < 0.3).astype(float)
    _, low, high = bootstrap_intervals(samples, resamples=1000)
    assert 0.90 <= ((low <= 0.3) & (high >= 0.3)).mean() <= 0.98


def test_the_same_seed_gives_the_same_interval_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten draws at a time or a million."""
    values = np.random.default_rng(0).random((7, 2))
    whole = bootstrap_intervals(values, resamples=50, seed=3)
    monkeypatch.setattr("indexmill.tasks.metrics.bootstrap.DRAWS_AT_ONCE", 10)
    assert np.array(bootstrap_intervals(values, resamples=50, seed=3)) == pytest.approx(np.array(whole), abs=1e-12)
    assert not np.allclose(np.array(bootstrap_intervals(values, resamples=50, seed=4))[1:], np.array(whole)[1:])


def test_every_resample_draws_as_many_queries_as_there_are() -> None:
    """Seven in each of the five."""
    counts = np.concatenate(list(draw_resample_counts(7, 5, seed=0)))
    assert counts.shape == (5, 7)
    assert counts.sum(axis=1).tolist() == [7] * 5


def test_intervals_without_spread_and_without_queries() -> None:
    """Equal values, one query: no width. No query: NaN for each measure."""
    assert np.array(bootstrap_intervals(np.full((9, 1), 0.7))).ravel().tolist() == pytest.approx([0.7] * 3)
    assert np.array(bootstrap_intervals(np.array([[0.25, 1.0]]))).tolist() == [[0.25, 1.0]] * 3
    assert np.isnan(np.array(bootstrap_intervals(np.empty((0, 2))))).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=2, max_size=30), st.integers(0, 5))
def test_intervals_stay_among_the_values_and_narrow_with_the_level(values: list[int], seed: int) -> None:
    """least value <= low(95) <= low(80) <= high(80) <= high(95) <= largest value."""
    column = np.array(values, float)[:, None] / 10
    _, low95, high95 = bootstrap_intervals(column, level=0.95, resamples=300, seed=seed)
    _, low80, high80 = bootstrap_intervals(column, level=0.80, resamples=300, seed=seed)
    steps = [column.min(), low95[0], low80[0], high80[0], high95[0], column.max()]
    assert (np.diff(steps) >= -1e-12).all()


def test_only_queries_of_both_snapshots_are_compared() -> None:
    """7 and 3 stand in both; values follow their ids."""
    ids, baseline, candidate = align_by_query(
        np.array([7, 3, 5]), np.array([0.7, 0.3, 0.5]), np.array([3, 8, 7]), np.array([0.1, 0.2, 0.4])
    )
    assert ids.tolist() == [3, 7]
    assert baseline.tolist() == [0.3, 0.7]
    assert candidate.tolist() == [0.1, 0.4]


def test_a_clear_drop_is_significant_and_noise_is_not() -> None:
    """The same queries, 0.1 lower but for noise; and with noise alone."""
    random = np.random.default_rng(0)
    baseline = random.random(200)
    noise = random.normal(0, 0.1, 200)
    drop, same = compare_paired(baseline, baseline - 0.1 + noise), compare_paired(baseline, baseline + noise - noise.mean() + 0.002)
    assert drop.difference == pytest.approx(drop.candidate - drop.baseline)
    assert drop.low < drop.difference < drop.high < 0
    assert drop.p_bootstrap < 0.001
    assert drop.p_wilcoxon < 0.001
    assert same.low < 0 < same.high
    assert same.p_bootstrap > 0.3
    assert same.p_wilcoxon > 0.3


def test_bootstrap_p_is_near_the_paired_t_test() -> None:
    """With 100 near-normal differences all three tests agree to a few hundredths."""
    random = np.random.default_rng(5)
    baseline = random.random(100)
    candidate = baseline + random.normal(0.015, 0.1, 100)
    result = compare_paired(baseline, candidate, resamples=20_000)
    assert result.p_bootstrap == pytest.approx(stats.ttest_rel(candidate, baseline).pvalue, abs=0.03)
    assert result.p_wilcoxon == pytest.approx(stats.ttest_rel(candidate, baseline).pvalue, abs=0.1)


def test_queries_without_a_change_speak_against_a_difference() -> None:
    """Wilcoxon's test keeps the ranks of the zeros (Pratt), so with 60 more of them the same changes count otherwise than alone."""
    change = np.random.default_rng(2).normal(0.05, 0.1, 20)
    changes = np.concatenate([change, np.zeros(60)])
    p = compare_paired(np.zeros(80), changes).p_wilcoxon
    assert p == stats.wilcoxon(changes, zero_method="pratt").pvalue
    assert p != pytest.approx(compare_paired(np.zeros(20), change).p_wilcoxon, rel=0.05)


def test_p_values_are_valid_where_nothing_differs() -> None:
    """Over 200 comparisons without a difference, about 5 % have p < 0.05: between 1 % and 10 %."""
    random = np.random.default_rng(0)
    p = np.array([compare_paired(a, b, resamples=400).p_bootstrap for a, b in random.random((200, 2, 50))])
    assert 0.01 <= (p < 0.05).mean() <= 0.10


def test_the_direction_of_a_comparison_turns_its_sign_alone() -> None:
    """then and now exchanged."""
    random = np.random.default_rng(1)
    baseline, candidate = random.random(30), random.random(30)
    there, back = compare_paired(baseline, candidate), compare_paired(candidate, baseline)
    assert back.difference == pytest.approx(-there.difference)
    assert back.p_bootstrap == pytest.approx(there.p_bootstrap)
    assert back.p_wilcoxon == pytest.approx(there.p_wilcoxon)


def test_no_change_is_no_evidence_and_no_query_is_no_answer() -> None:
    """p = 1 for both; NaN without queries."""
    same = compare_paired(np.array([0.5, 1, 0]), np.array([0.5, 1, 0]))
    assert (same.difference, same.low, same.high, same.p_bootstrap, same.p_wilcoxon) == (0, 0, 0, 1, 1)
    nothing = compare_paired(np.empty(0), np.empty(0))
    assert nothing.queries == 0
    assert np.isnan(nothing.p_bootstrap)
