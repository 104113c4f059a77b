"""The embedding space: balanced samples, PCA, t-SNE, k-nearest-neighbor purity and silhouette."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import faiss
import numpy as np

from indexmill.tasks.evaluation.labels import UNLABELED
from indexmill.tasks.metrics.exclusion import drop_excluded
from indexmill.tasks.metrics.neighbors import exact_search


def sample_balanced(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
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


def select_vectors(blocks: Iterable[tuple[np.ndarray, np.ndarray]], wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a stream of (ids, vectors), those whose id is wanted, in the stream's order: ids int64 (n,), vectors float32 (n, dim)."""
    kept = [(ids[mine], block[mine]) for ids, block in blocks for mine in [np.isin(ids, wanted)]]
    if not kept:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    return np.concatenate([ids for ids, _ in kept]), np.concatenate([block for _, block in kept])


def compute_pca(sample: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
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
    sample, labels = sample[labels != UNLABELED], labels[labels != UNLABELED]
    k = min(k, len(sample) - 1)
    if k < 1:
        return None
    rows = np.arange(len(sample))
    _, found = exact_search(sample, [(rows, sample)], k + 1, faiss.METRIC_INNER_PRODUCT)
    others = drop_excluded(found, found == rows[:, None])[:, :k]
    return float((labels[others] == labels[:, None]).mean())


def silhouette(sample: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean silhouette by cosine distance (Rousseeuw, 1987; scikit-learn): (b - a) / max(a, b) of every labelled item.

    a: mean distance to its own label's others; b: to the nearest other label's items; 0 where it is its label's only item. None unless
    there are two labels and more items than labels.
    """
    from sklearn.metrics import silhouette_score

    sample, labels = sample[labels != UNLABELED], labels[labels != UNLABELED]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(sample, labels, metric="cosine"))


TSNE_ITERATIONS = 500  # 250 of them with exaggeration, scikit-learn's least
SECONDS_PER_POINT = {2: 25e-6, 3: 40e-6}  # of one iteration: what two busy cores need, so that a quiet machine stays well within the bound
TSNE_PERPLEXITY = 30.0
MIN_POINTS, MAX_POINTS = 10, 3000


@dataclass(frozen=True)
class TsneLayout:
    """Points float64 (n, dimensions), and with what they were made; seconds is what it took."""

    points: np.ndarray
    dimensions: int
    perplexity: float
    iterations: int
    seconds: float


def max_points_within(seconds: float) -> int:
    """How many points can be laid out in 2D and in 3D within a time, by the costs above: the same number on every machine."""
    return int(np.clip(seconds / (TSNE_ITERATIONS * sum(SECONDS_PER_POINT.values())), MIN_POINTS, MAX_POINTS))


def compute_tsne(vectors: np.ndarray, labels: np.ndarray, *, seed: int, seconds: float) -> tuple[np.ndarray, list[TsneLayout]]:
    """t-SNE (scikit-learn, Barnes-Hut, from PCA) in 2D, then in 3D, of a balanced sample of `max_points_within(seconds)` at most: rows, layouts.

    vectors: float32 (n, dim), normalised where cosine is meant: squared Euclidean distance then is 2 - 2 cosine. labels: codes (n,). No
    layout of fewer than LEAST points; none in 3D where the 2D one took so long that it would pass the bound.
    """
    rows = sample_balanced(labels, max_points_within(seconds), seed)
    sample = vectors[rows]
    made: list[TsneLayout] = []
    if len(sample) < MIN_POINTS:
        return rows, made
    for dimensions in (2, 3):
        spent = sum(layout.seconds for layout in made)
        if spent * (1 + SECONDS_PER_POINT[dimensions] / SECONDS_PER_POINT[2]) > seconds:
            break
        made.append(_fit_tsne(sample, dimensions, seed))
    return rows, made


def _fit_tsne(sample: np.ndarray, dimensions: int, seed: int) -> TsneLayout:
    from sklearn.manifold import TSNE  # here: importing it takes a second, and only this needs it

    perplexity = min(TSNE_PERPLEXITY, (len(sample) - 1) / 3)
    start = time.perf_counter()
    tsne = TSNE(dimensions, perplexity=perplexity, max_iter=TSNE_ITERATIONS, init=_scale_pca(sample, dimensions, seed), random_state=seed)
    points = tsne.fit_transform(sample)
    return TsneLayout(points.astype(np.float64), dimensions, perplexity, TSNE_ITERATIONS, time.perf_counter() - start)


def _scale_pca(sample: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """The principal components, scaled as scikit-learn scales its own; noise where the sample does not vary."""
    points, _ = compute_pca(sample, dimensions, seed)
    padded = np.zeros((len(sample), dimensions), np.float32)
    padded[:, : points.shape[1]] = points
    width = padded[:, 0].std()
    return padded / width * 1e-4 if width else np.random.default_rng(seed).normal(0, 1e-4, padded.shape).astype(np.float32)
