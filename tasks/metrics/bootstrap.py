"""Bootstrap confidence intervals of means over queries, and paired tests of two snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
DRAWS_AT_ONCE = 1 << 20  # draws in memory together: 8 MB, and twice that for their counts; at least one resample


def bootstrap_intervals(
    values: np.ndarray, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the mean of each metric over queries, with its BCa bootstrap interval.

    BCa: Efron (1987), "Better bootstrap confidence intervals". The bias comes from the fraction of resampled means
    below the mean, ties counted half; the acceleration from the jackknife, which for a mean is skewness / (6
    sqrt(queries)).

    Args:
        values: (queries, metrics), one row per query; all metrics share the resamples.
        level: the coverage of the interval.
        resamples: the number of resamples.
        seed: the seed of the draws.

    Returns:
        Mean, lower and upper end, each float64 (metrics,). One query or equal values give an interval of zero width; no
        query gives NaN.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        undefined = np.full(values.shape[1], np.nan)
        return undefined, undefined, undefined
    mean = values.mean(axis=0)
    deviations = values - mean
    means = np.concatenate([mean + counts @ deviations / len(values) for counts in draw_resample_counts(len(values), resamples, seed)])
    low, high = _compute_bca_limits(means, mean, deviations, (1 - level) / 2)
    is_constant = values.min(axis=0) == values.max(axis=0)
    return mean, np.where(is_constant, mean, low), np.where(is_constant, mean, high)


def draw_resample_counts(queries: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw with replacement.

    Yield how often each query occurs in each resample, float64 blocks (resamples of the block, queries).
    """
    random = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // queries)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        draws = random.integers(0, queries, (count, queries)) + np.arange(count)[:, None] * queries
        yield np.bincount(draws.ravel(), minlength=count * queries).reshape(count, queries).astype(np.float64)


def _compute_bca_limits(means: np.ndarray, mean: np.ndarray, deviations: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import ndtr, ndtri  # imported here: a build without changes needs no SciPy

    fraction_below = ((means < mean).mean(axis=0) + (means <= mean).mean(axis=0)) / 2
    edge = 1 / (2 * len(means))  # fractions of 0 and 1 have no quantile
    bias = ndtri(np.clip(fraction_below, edge, 1 - edge))
    squares = (deviations**2).sum(axis=0)
    acceleration = np.divide((deviations**3).sum(axis=0), 6 * squares**1.5, out=np.zeros_like(squares), where=squares > 0)
    ends = []
    for z in (ndtri(tail), -ndtri(tail)):
        fractions = ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(np.array([np.quantile(column, fraction) for column, fraction in zip(means.T, fractions, strict=True)]))
    return ends[0], ends[1]


@dataclass(frozen=True)
class PairedComparison:
    """One metric of two snapshots over the queries that both answered; NaN without a common query.

    difference: mean of candidate - baseline, with the ends of its 95 % BCa interval. The p-values are two-sided
    (`compare_paired`).
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
    baseline_ids: np.ndarray, baseline: np.ndarray, candidate_ids: np.ndarray, candidate: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select the queries that both snapshots have: their ids, ascending, and the rows of each snapshot's values.

    Ids are distinct.
    """
    common, left, right = np.intersect1d(baseline_ids, candidate_ids, assume_unique=True, return_indices=True)
    return common, baseline[left], candidate[right]


def compare_paired(baseline: np.ndarray, candidate: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> PairedComparison:
    """Compare one metric of two snapshots over the same queries.

    p_bootstrap: paired bootstrap (Efron and Tibshirani, 1993, ch. 16): the fraction of resampled mean differences,
    shifted to mean 0, that are at least as far from 0 as the observed one; (their count + 1) / (resamples + 1).
    p_wilcoxon: SciPy's signed-rank test with Pratt's treatment of zeros, so that unchanged queries count against a
    difference. Both are 1 if no query changed.

    Args:
        baseline: float (queries,).
        candidate: float (queries,), row i for the same query.
        resamples: the number of resamples.
        seed: the seed of the draws.

    Returns:
        The comparison.
    """
    from scipy.stats import wilcoxon  # imported here: it takes a second, and only this function needs it

    change = np.asarray(candidate, np.float64) - np.asarray(baseline, np.float64)
    if not len(change):
        return PairedComparison(0, *[float("nan")] * 7)
    mean, low, high = (float(end[0]) for end in bootstrap_intervals(change[:, None], resamples=resamples, seed=seed))
    shifted = np.concatenate([counts @ (change - mean) / len(change) for counts in draw_resample_counts(len(change), resamples, seed)])
    is_as_far = np.abs(shifted) >= abs(mean) - 1e-12  # rounding must not break a tie
    return PairedComparison(
        queries=len(change),
        baseline=float(np.mean(baseline)),
        candidate=float(np.mean(candidate)),
        difference=mean,
        low=low,
        high=high,
        p_bootstrap=float((is_as_far.sum() + 1) / (resamples + 1)),
        p_wilcoxon=float(wilcoxon(change, zero_method="pratt").pvalue) if change.any() else 1.0,
    )
