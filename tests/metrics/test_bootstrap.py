"""Bootstrap intervals and paired tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from indexmill.tasks.metrics.bootstrap import align_by_query, bootstrap_intervals, compare_paired, draw_resample_counts


def test_intervals_agree_with_scipy_bca() -> None:
    """On skewed values, within the noise of two sets of 40,000 resamples."""
    values = np.random.default_rng(0).exponential(size=(20, 1)) ** 2
    mean, low, high = bootstrap_intervals(values, resamples=40_000, seed=1)
    expected = stats.bootstrap((values[:, 0],), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(2)).confidence_interval
    assert mean == pytest.approx(values.mean())
    width = expected.high - expected.low
    assert low[0] == pytest.approx(expected.low, abs=0.02 * width)
    assert high[0] == pytest.approx(expected.high, abs=0.02 * width)
    percentile = stats.bootstrap((values[:, 0],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2))
    assert (
        abs(percentile.confidence_interval.high - expected.high) > 0.05 * width
    )  # the two methods differ here, so the test can distinguish them


def test_intervals_have_about_their_nominal_coverage() -> None:
    """300 samples of 40 queries whose metric is 1 with probability 0.3: between 90 % and 98 % of the 95 % intervals
    hold 0.3.
    """
    samples = (np.random.default_rng(0).random((40, 300)) < 0.3).astype(float)
    _, low, high = bootstrap_intervals(samples, resamples=1000)
    assert 0.90 <= ((low <= 0.3) & (high >= 0.3)).mean() <= 0.98


def test_blocks_do_not_change_intervals_and_seeds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten draws at a time or a million."""
    values = np.random.default_rng(0).random((7, 2))
    whole = bootstrap_intervals(values, resamples=50, seed=3)
    monkeypatch.setattr("indexmill.tasks.metrics.bootstrap.DRAWS_AT_ONCE", 10)
    assert np.array(bootstrap_intervals(values, resamples=50, seed=3)) == pytest.approx(np.array(whole), abs=1e-12)
    assert not np.allclose(np.array(bootstrap_intervals(values, resamples=50, seed=4))[1:], np.array(whole)[1:])


def test_every_resample_draws_the_number_of_queries() -> None:
    """Seven in each of the five."""
    counts = np.concatenate(list(draw_resample_counts(7, 5, seed=0)))
    assert counts.shape == (5, 7)
    assert counts.sum(axis=1).tolist() == [7] * 5


def test_intervals_without_spread_and_without_queries() -> None:
    """Equal values or one query give zero width; no query gives NaN for each metric."""
    assert np.array(bootstrap_intervals(np.full((9, 1), 0.7))).ravel().tolist() == pytest.approx([0.7] * 3)
    assert np.array(bootstrap_intervals(np.array([[0.25, 1.0]]))).tolist() == [[0.25, 1.0]] * 3
    assert np.isnan(np.array(bootstrap_intervals(np.empty((0, 2))))).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=2, max_size=30), st.integers(0, 5))
def test_intervals_stay_within_the_values_and_narrow_with_the_level(values: list[int], seed: int) -> None:
    """min <= low(95) <= low(80) <= high(80) <= high(95) <= max."""
    column = np.array(values, float)[:, None] / 10
    _, low95, high95 = bootstrap_intervals(column, level=0.95, resamples=300, seed=seed)
    _, low80, high80 = bootstrap_intervals(column, level=0.80, resamples=300, seed=seed)
    steps = [column.min(), low95[0], low80[0], high80[0], high95[0], column.max()]
    assert (np.diff(steps) >= -1e-12).all()


def test_only_common_queries_are_compared() -> None:
    """7 and 3 are in both; values follow their ids."""
    ids, baseline, candidate = align_by_query(
        np.array([7, 3, 5]), np.array([0.7, 0.3, 0.5]), np.array([3, 8, 7]), np.array([0.1, 0.2, 0.4])
    )
    assert ids.tolist() == [3, 7]
    assert baseline.tolist() == [0.3, 0.7]
    assert candidate.tolist() == [0.1, 0.4]


def test_a_clear_drop_is_significant_and_noise_is_not() -> None:
    """The same queries, 0.1 lower with noise; and with noise only."""
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
    """With 100 near-normal differences all three tests agree within a few hundredths."""
    random = np.random.default_rng(5)
    baseline = random.random(100)
    candidate = baseline + random.normal(0.015, 0.1, 100)
    result = compare_paired(baseline, candidate, resamples=20_000)
    assert result.p_bootstrap == pytest.approx(stats.ttest_rel(candidate, baseline).pvalue, abs=0.03)
    assert result.p_wilcoxon == pytest.approx(stats.ttest_rel(candidate, baseline).pvalue, abs=0.1)


def test_unchanged_queries_count_against_a_difference() -> None:
    """Wilcoxon's test keeps the ranks of the zeros (Pratt), so 60 unchanged queries alter the p-value."""
    change = np.random.default_rng(2).normal(0.05, 0.1, 20)
    changes = np.concatenate([change, np.zeros(60)])
    p = compare_paired(np.zeros(80), changes).p_wilcoxon
    assert p == stats.wilcoxon(changes, zero_method="pratt").pvalue
    assert p != pytest.approx(compare_paired(np.zeros(20), change).p_wilcoxon, rel=0.05)


def test_p_values_are_valid_under_the_null_hypothesis() -> None:
    """Over 200 comparisons without a difference, about 5 % have p < 0.05: between 1 % and 10 %."""
    random = np.random.default_rng(0)
    p = np.array([compare_paired(a, b, resamples=400).p_bootstrap for a, b in random.random((200, 2, 50))])
    assert 0.01 <= (p < 0.05).mean() <= 0.10


def test_swapping_the_snapshots_changes_only_the_sign() -> None:
    """Baseline and candidate are swapped."""
    random = np.random.default_rng(1)
    baseline, candidate = random.random(30), random.random(30)
    forward, backward = compare_paired(baseline, candidate), compare_paired(candidate, baseline)
    assert backward.difference == pytest.approx(-forward.difference)
    assert backward.p_bootstrap == pytest.approx(forward.p_bootstrap)
    assert backward.p_wilcoxon == pytest.approx(forward.p_wilcoxon)


def test_no_change_gives_p_one_and_no_query_gives_nan() -> None:
    """Both p-values are 1, or NaN."""
    same = compare_paired(np.array([0.5, 1, 0]), np.array([0.5, 1, 0]))
    assert (same.difference, same.low, same.high, same.p_bootstrap, same.p_wilcoxon) == (0, 0, 0, 1, 1)
    nothing = compare_paired(np.empty(0), np.empty(0))
    assert nothing.queries == 0
    assert np.isnan(nothing.p_bootstrap)
