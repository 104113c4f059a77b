"""Bootstrap confidence intervals of means over queries, and paired tests of two snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
DRAWS_AT_ONCE = 1 << 20  # draws in memory together: 8 MB, and twice as much for their counts; one resample where the queries are more


def bootstrap_intervals(
    values: np.ndarray, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper end of its BCa bootstrap interval, each float64 (measures,).

    values: (queries, measures), a row a query; all measures share the resamples. The mean's denominator is the queries. BCa (Efron, 1987,
    "Better bootstrap confidence intervals"): bias from the share of resampled means below the mean, ties by half; acceleration from the
    jackknife, which for a mean is skewness / (6 sqrt(queries)). One query or equal values give an interval of no width; no query NaN.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        nothing = np.full(values.shape[1], np.nan)
        return nothing, nothing, nothing
    mean = values.mean(axis=0)
    spread = values - mean
    means = np.concatenate([mean + counts @ spread / len(values) for counts in draw_resample_counts(len(values), resamples, seed)])
    low, high = _bca_limits(means, mean, spread, (1 - level) / 2)
    flat = values.min(axis=0) == values.max(axis=0)
    return mean, np.where(flat, mean, low), np.where(flat, mean, high)


def draw_resample_counts(queries: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each query stands in each resample (drawn with replacement), float64 blocks (resamples of the block, queries)."""
    random = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // queries)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = random.integers(0, queries, (count, queries)) + np.arange(count)[:, None] * queries
        yield np.bincount(drawn.ravel(), minlength=count * queries).reshape(count, queries).astype(np.float64)


def _bca_limits(means: np.ndarray, mean: np.ndarray, spread: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import ndtr, ndtri  # here: a night without changes needs none of SciPy

    below = ((means < mean).mean(axis=0) + (means <= mean).mean(axis=0)) / 2
    edge = 1 / (2 * len(means))  # a share of 0 or 1 has no quantile
    bias = ndtri(np.clip(below, edge, 1 - edge))
    squares = (spread**2).sum(axis=0)
    skew = np.divide((spread**3).sum(axis=0), 6 * squares**1.5, out=np.zeros_like(squares), where=squares > 0)
    ends = []
    for z in (ndtri(tail), -ndtri(tail)):
        shares = ndtr(bias + (bias + z) / (1 - skew * (bias + z)))
        ends.append(np.array([np.quantile(column, share) for column, share in zip(means.T, shares, strict=True)]))
    return ends[0], ends[1]


@dataclass(frozen=True)
class PairedComparison:
    """One measure of two snapshots over the queries that both answered. p-values are two-sided; NaN without a common query.

    difference: mean of now - then, with the ends of its 95 % BCa interval. p_bootstrap and p_wilcoxon: `compare_paired` says how.
    """

    queries: int
    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float


def align_by_query(
    then_ids: np.ndarray, baseline: np.ndarray, now_ids: np.ndarray, candidate: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The queries that both snapshots asked, ascending by id: ids (common,) and the rows of each side's values. Ids are distinct."""
    common, left, right = np.intersect1d(then_ids, now_ids, assume_unique=True, return_indices=True)
    return common, baseline[left], candidate[right]


def compare_paired(baseline: np.ndarray, candidate: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> PairedComparison:
    """Compare one measure of two snapshots, (queries,) each, row i the same query.

    p_bootstrap: paired bootstrap (Efron and Tibshirani, 1993, ch. 16): the share of resampled mean differences, shifted to mean 0, that are
    as far from 0 as the one seen; (that count + 1) / (resamples + 1). p_wilcoxon: SciPy's signed-rank test with Pratt's treatment
    of zeros, so that queries without a change count against a difference. Both are 1 where no query changed.
    """
    from scipy.stats import wilcoxon  # here: importing it takes a second, and only this needs it

    change = np.asarray(candidate, np.float64) - np.asarray(baseline, np.float64)
    if not len(change):
        return PairedComparison(0, *[float("nan")] * 7)
    mean, low, high = (float(end[0]) for end in bootstrap_intervals(change[:, None], resamples=resamples, seed=seed))
    shifted = np.concatenate([counts @ (change - mean) / len(change) for counts in draw_resample_counts(len(change), resamples, seed)])
    as_far = np.abs(shifted) >= abs(mean) - 1e-12  # rounding must not break a tie
    p_bootstrap = float((as_far.sum() + 1) / (resamples + 1))
    p_wilcoxon = float(wilcoxon(change, zero_method="pratt").pvalue) if change.any() else 1.0
    return PairedComparison(len(change), float(np.mean(baseline)), float(np.mean(candidate)), mean, low, high, p_bootstrap, p_wilcoxon)
