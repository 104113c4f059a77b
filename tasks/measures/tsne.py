"""t-SNE: neighbours of the space stay neighbours on paper; distances between groups mean nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from indexmill.tasks.measures.space import balanced_sample, principal_components

ITERATIONS = 500  # 250 of them with exaggeration, scikit-learn's least
SECONDS_A_POINT = {2: 25e-6, 3: 40e-6}  # of one iteration: what two busy cores need, so that a quiet machine stays well within the bound
PERPLEXITY = 30.0
LEAST, MOST = 10, 3000


@dataclass(frozen=True)
class Layout:
    """Points float64 (n, dimensions), and with what they were made; seconds is what it took."""

    points: np.ndarray
    dimensions: int
    perplexity: float
    iterations: int
    seconds: float


def affordable(seconds: float) -> int:
    """How many points can be laid out in 2D and in 3D within a time, by the costs above: the same number on every machine."""
    return int(np.clip(seconds / (ITERATIONS * sum(SECONDS_A_POINT.values())), LEAST, MOST))


def layouts(vectors: np.ndarray, labels: np.ndarray, *, seed: int, seconds: float) -> tuple[np.ndarray, list[Layout]]:
    """t-SNE (scikit-learn, Barnes-Hut, from PCA) in 2D, then in 3D, of a balanced sample of `affordable(seconds)` at most: rows, layouts.

    vectors: float32 (n, dim), normalised where cosine is meant: squared Euclidean distance then is 2 - 2 cosine. labels: codes (n,). No
    layout of fewer than LEAST points; none in 3D where the 2D one took so long that it would pass the bound.
    """
    rows = balanced_sample(labels, affordable(seconds), seed)
    sample = vectors[rows]
    made: list[Layout] = []
    if len(sample) < LEAST:
        return rows, made
    for dimensions in (2, 3):
        spent = sum(layout.seconds for layout in made)
        if spent * (1 + SECONDS_A_POINT[dimensions] / SECONDS_A_POINT[2]) > seconds:
            break
        made.append(_layout(sample, dimensions, seed))
    return rows, made


def _layout(sample: np.ndarray, dimensions: int, seed: int) -> Layout:
    from sklearn.manifold import TSNE  # here: importing it takes a second, and only this needs it

    perplexity = min(PERPLEXITY, (len(sample) - 1) / 3)
    start = time.perf_counter()
    tsne = TSNE(dimensions, perplexity=perplexity, max_iter=ITERATIONS, init=_start(sample, dimensions, seed), random_state=seed)
    points = tsne.fit_transform(sample)
    return Layout(points.astype(np.float64), dimensions, perplexity, ITERATIONS, time.perf_counter() - start)


def _start(sample: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """The principal components, scaled as scikit-learn scales its own; noise where the sample does not vary."""
    points, _ = principal_components(sample, dimensions, seed)
    padded = np.zeros((len(sample), dimensions), np.float32)
    padded[:, : points.shape[1]] = points
    width = padded[:, 0].std()
    return padded / width * 1e-4 if width else np.random.default_rng(seed).normal(0, 1e-4, padded.shape).astype(np.float32)
