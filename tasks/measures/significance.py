"""Then and now: whether two snapshots differ by more than the choice of queries explains. Tests are paired, query by query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexmill.tasks.measures.confidence import RESAMPLES, intervals, resample_counts


@dataclass(frozen=True)
class Comparison:
    """One measure of two snapshots over the queries that both answered. p-values are two-sided; NaN without a common query.

    difference: mean of now - then, with the ends of its 95 % BCa interval. p_bootstrap and p_wilcoxon: `compare` says how.
    """

    queries: int
    then: float
    now: float
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float


def aligned(then_ids: np.ndarray, then: np.ndarray, now_ids: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The queries that both snapshots asked, ascending by id: ids (common,) and the rows of each side's values. Ids are distinct."""
    common, left, right = np.intersect1d(then_ids, now_ids, assume_unique=True, return_indices=True)
    return common, then[left], now[right]


def compare(then: np.ndarray, now: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare one measure of two snapshots, (queries,) each, row i the same query.

    p_bootstrap: paired bootstrap (Efron and Tibshirani, 1993, ch. 16): the share of resampled mean differences, shifted to mean 0, that are
    as far from 0 as the one seen; (that count + 1) / (resamples + 1). p_wilcoxon: SciPy's signed-rank test with Pratt's treatment
    of zeros, so that queries without a change count against a difference. Both are 1 where no query changed.
    """
    from scipy.stats import wilcoxon  # here: importing it takes a second, and only this needs it

    change = np.asarray(now, np.float64) - np.asarray(then, np.float64)
    if not len(change):
        return Comparison(0, *[float("nan")] * 7)
    mean, low, high = (float(end[0]) for end in intervals(change[:, None], resamples=resamples, seed=seed))
    shifted = np.concatenate([counts @ (change - mean) / len(change) for counts in resample_counts(len(change), resamples, seed)])
    as_far = np.abs(shifted) >= abs(mean) - 1e-12  # rounding must not break a tie
    p_bootstrap = float((as_far.sum() + 1) / (resamples + 1))
    p_wilcoxon = float(wilcoxon(change, zero_method="pratt").pvalue) if change.any() else 1.0
    return Comparison(len(change), float(np.mean(then)), float(np.mean(now)), mean, low, high, p_bootstrap, p_wilcoxon)
