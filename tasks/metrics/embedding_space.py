"""The embedding space: balanced samples, PCA, t-SNE, k-nearest-neighbor purity and silhouette."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import faiss
import numpy as np

from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.exclusion import drop_excluded
from indexmill.tasks.metrics.per_label import UNLABELED

TSNE_ITERATIONS = 500  # 250 of them with exaggeration, scikit-learn's minimum
TSNE_PERPLEXITY = 30.0
# Seconds per point and iteration by dimension: what two busy cores need, so that a quiet machine stays well within the
# bound.
SECONDS_PER_POINT = {2: 25e-6, 3: 40e-6}
MIN_POINTS, MAX_POINTS = 10, 3000
PLACING_NEIGHBORS = 10


def sample_balanced(labels: np.ndarray, size: int) -> np.ndarray:
    """Select a sample that is as even over the labels as they allow: the first item of every label, then the second
    ones, and so on.

    Args:
        labels: label codes (items,) in the order of a draw; UNLABELED counts as a label.
        size: the largest number of items.

    Returns:
        Rows, int64 ascending. Holds 30 bytes per item.
    """
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    starts = np.flatnonzero(np.diff(sorted_labels, prepend=sorted_labels[:1] - 1))
    turn = np.empty(len(labels), np.int64)
    turn[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))
    return np.sort(np.argsort(turn, kind="stable")[:size])


def select_vectors(blocks: Iterable[tuple[np.ndarray, np.ndarray]], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Select the vectors with one of these ids from a stream of (ids, vectors), in the stream's order.

    Returns:
        ids int64 (n,) and vectors float32 (n, dim).
    """
    selected = [(block_ids[mask], block[mask]) for block_ids, block in blocks for mask in [np.isin(block_ids, ids)]]
    if not selected:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    return np.concatenate([block_ids for block_ids, _ in selected]), np.concatenate([block for _, block in selected])


def compute_pca(sample: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the principal components of a sample with scikit-learn's randomized PCA.

    Args:
        sample: float32 (n, dim).
        count: the number of components.
        seed: the seed of the solver.

    Returns:
        Coordinates float64 (n, c) and the fraction of the total variance that each component explains, in descending
        order; c = min(count, n - 1, dim).
    """
    from sklearn.decomposition import PCA  # imported here: it takes a second, and only this function needs it

    components = min(count, len(sample) - 1, sample.shape[1])
    if components < 1 or np.ptp(sample, axis=0).max() == 0:
        return np.zeros((len(sample), max(components, 0))), np.zeros(max(components, 0))
    solver = "randomized" if components < min(sample.shape) else "full"
    pca = PCA(n_components=components, svd_solver=solver, random_state=seed)
    return pca.fit_transform(sample.astype(np.float64)), pca.explained_variance_ratio_


def knn_purity(sample: np.ndarray, labels: np.ndarray, k: int = 10) -> float | None:
    """Average over the labeled items: (those of the k nearest other labeled items that share the label) / k.

    Neighbors are by inner product, so by cosine for normalized vectors; ties by ascending row.

    Args:
        sample: float32 (n, dim).
        labels: label codes (n,); UNLABELED items are left out.
        k: the number of neighbors, at most the number of other labeled items.

    Returns:
        The purity, or None without two labeled items.
    """
    sample, labels = sample[labels != UNLABELED], labels[labels != UNLABELED]
    k = min(k, len(sample) - 1)
    if k < 1:
        return None
    rows = np.arange(len(sample))
    _, neighbors = exact_search(sample, [(rows, sample)], k + 1, faiss.METRIC_INNER_PRODUCT)
    neighbors = drop_excluded(neighbors, neighbors == rows[:, None])[:, :k]
    return float((labels[neighbors] == labels[:, None]).mean())


def silhouette(sample: np.ndarray, labels: np.ndarray) -> float | None:
    """Compute the mean silhouette of the labeled items by cosine distance: (b - a) / max(a, b), after Rousseeuw (1987).

    a is the mean distance to the other items of the same label, b to the items of the nearest other label; 0 for the
    only item of a label.

    Args:
        sample: float32 (n, dim).
        labels: label codes (n,); UNLABELED items are left out.

    Returns:
        The silhouette, rounded to 6 decimals, or None without two labels and more items than labels.
    """
    from sklearn.metrics import silhouette_score

    sample, labels = sample[labels != UNLABELED], labels[labels != UNLABELED]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    # In float64, and rounded: the last digits of a product of matrices depend on the number of threads.
    return round(float(silhouette_score(sample.astype(np.float64), labels, metric="cosine")), 6)


@dataclass(frozen=True)
class TsneLayout:
    """Points float64 (n, dimensions), and the parameters and seconds of their computation.

    placed: the rows that were not laid out with the others, but placed among them (`place_points`), int64.
    """

    points: np.ndarray
    dimensions: int
    perplexity: float
    iterations: int
    seconds: float
    placed: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def max_points_within(seconds: float) -> int:
    """Compute how many points t-SNE lays out in 2D and in 3D within a time, by SECONDS_PER_POINT: the same number on
    every machine.
    """
    return int(np.clip(seconds / (TSNE_ITERATIONS * sum(SECONDS_PER_POINT.values())), MIN_POINTS, MAX_POINTS))


def compute_tsne(vectors: np.ndarray, labels: np.ndarray, *, seed: int, seconds: float) -> tuple[np.ndarray, list[TsneLayout]]:
    """Compute t-SNE layouts of a balanced sample in 2D, then in 3D (scikit-learn, Barnes-Hut, initialized by PCA).

    Args:
        vectors: float32 (n, dim) in the order of a draw, normalized for cosine: the squared Euclidean distance is then
            2 - 2 cosine.
        labels: label codes (n,).
        seed: the seed of the layouts.
        seconds: the time limit, from which the sample size follows (`max_points_within`); 0 for no layouts.

    Returns:
        The sampled rows and their layouts: none for 0 seconds or fewer than MIN_POINTS, and none in 3D if 2D took so long that 3D
        would pass the limit.
    """
    rows = sample_balanced(labels, max_points_within(seconds))
    sample = vectors[rows]
    layouts: list[TsneLayout] = []
    if not seconds or len(sample) < MIN_POINTS:
        return rows, layouts
    for dimensions in (2, 3):
        elapsed = sum(layout.seconds for layout in layouts)
        if elapsed * (1 + SECONDS_PER_POINT[dimensions] / SECONDS_PER_POINT[2]) > seconds:
            break
        layouts.append(_fit_tsne(sample, dimensions, seed))
    return rows, layouts


def place_points(points: np.ndarray, is_known: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Place points into a layout that exists: each at the median of its PLACING_NEIGHBORS nearest known points, by inner
    product. So openTSNE starts to embed new points in a layout.

    Args:
        points: float64 (n, dimensions); those of unknown points are ignored.
        is_known: bool (n,), at least one.
        vectors: float32 (n, dim).

    Returns:
        The points, float64 (n, dimensions).
    """
    placed, known_rows = points.copy(), np.flatnonzero(is_known)
    k = min(PLACING_NEIGHBORS, len(known_rows))
    _, neighbors = exact_search(vectors[~is_known], [(known_rows, vectors[known_rows])], k, faiss.METRIC_INNER_PRODUCT)
    placed[~is_known] = np.median(points[neighbors], axis=1)
    return placed


def _fit_tsne(sample: np.ndarray, dimensions: int, seed: int) -> TsneLayout:
    from sklearn.manifold import TSNE  # imported here: it takes a second, and only this function needs it

    perplexity = min(TSNE_PERPLEXITY, (len(sample) - 1) / 3)
    start = time.perf_counter()
    tsne = TSNE(dimensions, perplexity=perplexity, max_iter=TSNE_ITERATIONS, init=_scale_pca(sample, dimensions, seed), random_state=seed)
    points = tsne.fit_transform(sample)
    return TsneLayout(points.astype(np.float64), dimensions, perplexity, TSNE_ITERATIONS, time.perf_counter() - start)


def _scale_pca(sample: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """Scale the principal components as scikit-learn scales its own initialization.

    Noise if the sample does not vary.
    """
    points, _ = compute_pca(sample, dimensions, seed)
    padded = np.zeros((len(sample), dimensions), np.float32)
    padded[:, : points.shape[1]] = points
    deviation = padded[:, 0].std()
    return padded / deviation * 1e-4 if deviation else np.random.default_rng(seed).normal(0, 1e-4, padded.shape).astype(np.float32)
