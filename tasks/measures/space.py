"""The embedding space: what a label-balanced sample is drawn by, how much few directions explain, and how pure the neighbourhoods are."""

from __future__ import annotations

from collections.abc import Iterable

import faiss
import numpy as np

from indexmill.tasks.measures.exclusion import moved_up
from indexmill.tasks.measures.labels import UNLABELLED
from indexmill.tasks.measures.neighbours import exact_search


def balanced_sample(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Rows of at most `size` items, as even over the labels as they allow, int64 ascending: one of every label, then a second, and so on.

    labels: codes (items,); UNLABELLED counts as a label. The same labels and seed give the same draw. Holds 30 bytes an item.
    """
    draw = np.random.default_rng(seed).permutation(len(labels))
    order = np.lexsort((draw, labels))
    grouped = labels[order]
    starts = np.flatnonzero(np.diff(grouped, prepend=grouped[:1] - 1))
    turn = np.empty(len(labels), np.int64)
    turn[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))
    return np.sort(np.lexsort((draw, turn))[:size])


def gathered(blocks: Iterable[tuple[np.ndarray, np.ndarray]], wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a stream of (ids, vectors), those whose id is wanted, in the stream's order: ids int64 (n,), vectors float32 (n, dim)."""
    kept = [(ids[mine], block[mine]) for ids, block in blocks for mine in [np.isin(ids, wanted)]]
    if not kept:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    return np.concatenate([ids for ids, _ in kept]), np.concatenate([block for _, block in kept])


def principal_components(sample: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """PCA (scikit-learn, randomised): coordinates float64 (n, c) and the share of variance explained by each, largest first.

    c is the least of count, n - 1 and dim. Share = variance along it / total variance of the sample.
    """
    from sklearn.decomposition import PCA  # here: importing it takes a second, and only this needs it

    kept = min(count, len(sample) - 1, sample.shape[1])
    if kept < 1 or np.ptp(sample, axis=0).max() == 0:
        return np.zeros((len(sample), max(kept, 0))), np.zeros(max(kept, 0))
    solver = "randomized" if kept < min(sample.shape) else "full"
    pca = PCA(n_components=kept, svd_solver=solver, random_state=seed)
    return pca.fit_transform(sample.astype(np.float64)), pca.explained_variance_ratio_


def knn_purity(sample: np.ndarray, labels: np.ndarray, k: int = 10) -> float | None:
    """Mean over the labelled items of (its k nearest others with its label) / k; None without two labelled items.

    Nearest by inner product, so by cosine for normalised vectors; equals by ascending row; never the item itself. k is at most the
    others there are. Unlabelled items are left out altogether.
    """
    sample, labels = sample[labels != UNLABELLED], labels[labels != UNLABELLED]
    k = min(k, len(sample) - 1)
    if k < 1:
        return None
    rows = np.arange(len(sample))
    _, found = exact_search(sample, [(rows, sample)], k + 1, faiss.METRIC_INNER_PRODUCT)
    others = moved_up(found, found == rows[:, None])[:, :k]
    return float((labels[others] == labels[:, None]).mean())


def silhouette(sample: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean silhouette by cosine distance (Rousseeuw, 1987; scikit-learn): (b - a) / max(a, b) of every labelled item.

    a: mean distance to its own label's others; b: to the nearest other label's items; 0 where it is its label's only item. None unless
    there are two labels and more items than labels.
    """
    from sklearn.metrics import silhouette_score

    sample, labels = sample[labels != UNLABELLED], labels[labels != UNLABELLED]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(sample, labels, metric="cosine"))
