"""Correlation of cosine similarity with the similarity scores that people gave to pairs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def cosine_similarities(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute the cosine of each pair, float64 (pairs,), from blocks (left, right), each float32 (n, dim).

    0 for zero vectors.
    """
    return np.concatenate([np.empty(0), *(_cosine(left.astype(np.float64), right.astype(np.float64)) for left, right in blocks)])


def compute_correlations(cosine: np.ndarray, human_scores: np.ndarray, files: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Correlate cosine similarities with human scores, for every file and `overall`.

    Args:
        cosine: float64 (pairs,).
        human_scores: float64 (pairs,).
        files: the file of each pair, str (pairs,).

    Returns:
        File name -> `spearman`, `pearson` and the number of `pairs`. `overall` correlates all pairs together; it is not
        a mean.
    """
    masks = {"overall": np.ones(len(cosine), bool)} | {str(name): files == name for name in np.unique(files)}
    return {
        name: {
            "spearman": spearman(cosine[mask], human_scores[mask]),
            "pearson": pearson(cosine[mask], human_scores[mask]),
            "pairs": int(mask.sum()),
        }
        for name, mask in masks.items()
    }


def pearson(left: np.ndarray, right: np.ndarray) -> float | None:
    """Compute Pearson's r = covariance / (product of the standard deviations).

    None if a side is constant or has fewer than 2 values.
    """
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.clip(np.corrcoef(left, right)[0, 1], -1, 1))


def spearman(left: np.ndarray, right: np.ndarray) -> float | None:
    """Compute Spearman's rho = Pearson's r of the ranks; equal values share the average of their ranks.

    None as in `pearson`.
    """
    from scipy.stats import rankdata  # imported here: it takes a second, and only this function needs it

    return pearson(rankdata(left), rankdata(right))


def _cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.divide(np.einsum("nd,nd->n", left, right), norms, out=np.zeros(len(left)), where=norms > 0)
