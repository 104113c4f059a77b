"""Balanced samples, PCA, purity, silhouette and t-SNE."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from indexmill.tasks.metrics.embedding_space import (
    MIN_POINTS,
    compute_pca,
    compute_tsne,
    knn_purity,
    max_points_within,
    place_points,
    sample_balanced,
    select_vectors,
    silhouette,
)
from indexmill.tasks.metrics.per_label import UNLABELED


def draw_clusters(count: int, labels: int, spread: float = 0.3, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    codes = random.integers(0, labels, count)
    vectors = random.standard_normal((labels, dim))[codes] + spread * random.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), codes


@settings(max_examples=60)
@given(st.lists(st.integers(-1, 4), max_size=60), st.integers(0, 30))
def test_a_sample_is_as_even_as_the_labels_allow(labels: list[int], size: int) -> None:
    """It is full, distinct, ascending and reproducible.

    No label has two items more than another one with items left.
    """
    codes = np.array(labels, np.int32)
    rows = sample_balanced(codes, size)
    assert rows.tolist() == sorted(set(rows.tolist())) == sample_balanced(codes, size).tolist()
    assert len(rows) == min(size, len(labels))
    drawn = {code: int((codes[rows] == code).sum()) for code in set(labels)}
    unfinished = [count for code, count in drawn.items() if count < labels.count(code)]
    assert not unfinished or max(drawn.values()) <= min(unfinished) + 1


def test_a_sample_takes_the_first_of_the_draw() -> None:
    """Two of each of the labels 7 and 8, and the only 9; an item that is drawn later changes nothing."""
    codes = [7, 7, 8, 7, 9, 8, 8]
    assert sample_balanced(np.array(codes), 5).tolist() == sample_balanced(np.array([*codes, 7]), 5).tolist() == [0, 1, 2, 4, 5]


def test_new_points_are_placed_beside_their_neighbors() -> None:
    """Two directions, ten points of each in a corner of the layout: a new point goes into the corner of its direction."""
    vectors = np.repeat(np.eye(2, dtype=np.float32), 11, axis=0)
    points = np.repeat([[1.0, 5.0], [-3.0, 2.0]], 11, axis=0)
    is_known = np.arange(22) % 11 > 0
    expected, points[~is_known] = points.copy(), np.nan
    assert place_points(points, is_known, vectors).tolist() == expected.tolist()


def test_vectors_are_selected_from_a_stream() -> None:
    """Ids and vectors stay aligned."""
    blocks = [(np.array([1, 2, 3]), np.eye(3, dtype=np.float32)), (np.array([7]), np.ones((1, 3), np.float32))]
    ids, vectors = select_vectors(blocks, np.array([7, 2]))
    assert ids.tolist() == [2, 7]
    assert vectors.tolist() == [[0, 1, 0], [1, 1, 1]]


def test_principal_components_are_those_of_the_covariance() -> None:
    """NumPy's eigenvalues give the explained fractions and the variances of the coordinates."""
    sample, _ = draw_clusters(200, 5)
    points, explained = compute_pca(sample, 3, seed=0)
    eigenvalues = np.linalg.eigvalsh(np.cov(sample.astype(np.float64).T))[::-1]
    assert explained == pytest.approx(eigenvalues[:3] / eigenvalues.sum(), rel=1e-3)
    assert points.var(axis=0, ddof=1) == pytest.approx(eigenvalues[:3], rel=1e-3)


def test_principal_components_of_degenerate_samples() -> None:
    """Two points have one component, equal points explain nothing, one point has no component."""
    points, explained = compute_pca(np.array([[0, 0], [3, 4]], np.float32), 3, seed=0)
    assert np.abs(points).ravel() == pytest.approx([2.5, 2.5])
    assert explained == pytest.approx([1])
    assert compute_pca(np.ones((4, 3), np.float32), 2, seed=0)[1].tolist() == [0, 0]
    assert compute_pca(np.ones((1, 3), np.float32), 2, seed=0)[0].shape == (1, 0)


def test_purity_by_hand() -> None:
    """Angles 0, 1, 2 and 50 degrees, labels a a b b: the nearest other is a.

    A or b; a; b. The tie goes to the first row.
    """
    angles = np.radians([0, 1, 2.5, 50])
    sample = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert knn_purity(sample, np.array([0, 0, 1, 1]), k=1) == pytest.approx(3 / 4)
    assert knn_purity(sample, np.array([0, 0, 1, 1]), k=99) == pytest.approx(1 / 3)  # three others each, one of its label
    assert knn_purity(sample, np.array([0, UNLABELED, UNLABELED, UNLABELED])) is None


def test_purity_agrees_with_scikit_learn() -> None:
    """Neighbors are by cosine, without the item itself."""
    sample, codes = draw_clusters(150, 6, spread=0.8)
    _, rows = NearestNeighbors(n_neighbors=6, metric="cosine").fit(sample).kneighbors(sample)
    assert knn_purity(sample, codes, k=5) == pytest.approx((codes[rows[:, 1:]] == codes[:, None]).mean(), abs=1e-9)


def test_an_item_is_never_its_own_neighbor() -> None:
    """Four equal vectors with different labels have purity 0."""
    assert knn_purity(np.ones((4, 2), np.float32), np.arange(4), k=1) == 0


def test_silhouette_by_hand() -> None:
    """Two labels at right angles, each of two equal vectors: a = 0, b = 1. None for one label, or a label per item."""
    sample = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert silhouette(sample, np.array([0, 0, 1, 1])) == pytest.approx(1)
    assert silhouette(sample, np.array([0, 1, 0, 1])) == pytest.approx(-0.5)  # a = 1, b = 1/2
    angles = np.radians([0, 60, 90, 90])  # (1 - .5) / 1, (.134 - .5) / .5, and twice 1
    sides = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert silhouette(sides, np.array([0, 0, 1, 1])) == pytest.approx((0.5 + (1 - 3**0.5 / 2 - 0.5) / 0.5 + 2) / 4, abs=1e-6)
    assert silhouette(sample, np.array([0, 0, 0, UNLABELED])) is None
    assert silhouette(sample, np.arange(4)) is None


def test_tsne_keeps_clusters_together_in_2d_and_3d() -> None:
    """For four distant clusters, nearly all nearest neighbors in the layout share the label.

    Equal seeds give equal layouts.
    """
    vectors, codes = draw_clusters(60, 4, spread=0.1)
    rows, layouts = compute_tsne(vectors, codes, seed=1, seconds=60)
    assert [layout.points.shape for layout in layouts] == [(60, 2), (60, 3)]
    assert rows.tolist() == list(range(60))
    for layout in layouts:
        distances = ((layout.points[:, None] - layout.points[None]) ** 2).sum(axis=2) + np.diag(np.full(60, np.inf))
        assert (codes[distances.argmin(axis=1)] == codes).mean() > 0.95
    assert compute_tsne(vectors, codes, seed=1, seconds=60)[1][0].points.tolist() == layouts[0].points.tolist()


def test_the_time_limit_sets_the_number_of_points() -> None:
    """More time allows more points; there is no layout of fewer points than MIN_POINTS."""
    vectors, codes = draw_clusters(60, 4)
    assert max_points_within(10) < max_points_within(20) <= max_points_within(10_000)
    rows, layouts = compute_tsne(vectors, codes, seed=0, seconds=0.5)
    assert len(rows) == max_points_within(0.5) < 60
    assert all(len(layout.points) == len(rows) for layout in layouts)
    assert compute_tsne(vectors[: MIN_POINTS - 1], codes[: MIN_POINTS - 1], seed=0, seconds=60)[1] == []
    assert compute_tsne(vectors, codes, seed=0, seconds=0)[1] == []


def test_equal_vectors_still_have_a_layout() -> None:
    """Without variance the initialization is noise."""
    _, layouts = compute_tsne(np.ones((12, 4), np.float32), np.zeros(12, np.int32), seed=0, seconds=60)
    assert all(np.isfinite(layout.points).all() for layout in layouts)
    assert len(layouts) == 2
