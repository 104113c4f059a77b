"""How sure a mean over queries is: bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

RESAMPLES = 2000
DRAWS_AT_ONCE = 1 << 20  # draws in memory together: 8 MB, and twice as much for their counts; one resample where the queries are more


def intervals(
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
    means = np.concatenate([mean + counts @ spread / len(values) for counts in resample_counts(len(values), resamples, seed)])
    low, high = _bca(means, mean, spread, (1 - level) / 2)
    flat = values.min(axis=0) == values.max(axis=0)
    return mean, np.where(flat, mean, low), np.where(flat, mean, high)


def resample_counts(queries: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each query stands in each resample (drawn with replacement), float64 blocks (resamples of the block, queries)."""
    random = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // queries)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = random.integers(0, queries, (count, queries)) + np.arange(count)[:, None] * queries
        yield np.bincount(drawn.ravel(), minlength=count * queries).reshape(count, queries).astype(np.float64)


def _bca(means: np.ndarray, mean: np.ndarray, spread: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
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
