"""Correlation of cosine similarity with the similarity scores that people gave to pairs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def cosine_similarities(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Cosine of each pair, float64 (pairs,), from blocks (left, right), each float32 (n, dim). 0 where a vector is all zeros."""
    return np.concatenate([np.empty(0), *(_cosine(left.astype(np.float64), right.astype(np.float64)) for left, right in blocks)])


def compute_correlations(cosine: np.ndarray, human_scores: np.ndarray, files: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Spearman and Pearson of cosine against given scores, and the pairs that they rest on, for every file and `overall`.

    files: str (pairs,). `overall` correlates all pairs together; it is no mean of the files' figures.
    """
    wanted = {"overall": np.ones(len(cosine), bool)} | {str(name): files == name for name in np.unique(files)}
    return {
        name: {
            "spearman": spearman(cosine[mine], human_scores[mine]),
            "pearson": pearson(cosine[mine], human_scores[mine]),
            "pairs": int(mine.sum()),
        }
        for name, mine in wanted.items()
    }


def pearson(left: np.ndarray, right: np.ndarray) -> float | None:
    """Pearson's r = covariance / (product of the standard deviations); None where a side does not vary or there are fewer than 2 pairs."""
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.clip(np.corrcoef(left, right)[0, 1], -1, 1))


def spearman(left: np.ndarray, right: np.ndarray) -> float | None:
    """Spearman's rho = Pearson's r of the ranks; equal values share the average of their ranks. None as for `pearson`."""
    from scipy.stats import rankdata  # here: importing it takes a second, and only this needs it

    return pearson(rankdata(left), rankdata(right))


def _cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.divide(np.einsum("nd,nd->n", left, right), lengths, out=np.zeros(len(left)), where=lengths > 0)
