"""Exact search and k-means on a GPU, or on the CPU if FAISS has no GPU."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from indexmill.storage.versions import get_installed_version
from indexmill.tasks.indexing.factory import FAISS_METRICS, use_gpu_clustering
from indexmill.tasks.metrics.exact_search import knn


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_search_agrees_with_numpy(metric: str) -> None:
    """All pairs in NumPy: the same rows, and scores to within float32."""
    random = np.random.default_rng(0)
    queries, vectors = random.normal(size=(20, 16)).astype(np.float32), random.normal(size=(300, 16)).astype(np.float32)
    scores, rows = knn(queries, vectors, 5, FAISS_METRICS[metric])
    pairs = queries @ vectors.T if metric == "cosine" else -((queries[:, None] - vectors) ** 2).sum(axis=2)
    expected = np.argsort(-pairs, axis=1)[:, :5]
    assert rows.tolist() == expected.tolist()
    expected_scores = np.take_along_axis(pairs, expected, axis=1)
    np.testing.assert_allclose(scores, expected_scores if metric == "cosine" else -expected_scores, rtol=1e-4, atol=1e-4)


def test_lists_are_trained_and_the_device_is_released() -> None:
    """Each list gets one of four distant clusters, and the index keeps no clustering index."""
    centers = 100 * np.eye(4, 8, dtype=np.float32)
    vectors = np.repeat(centers, 50, axis=0) + np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    index = faiss.index_factory(8, "IVF4,Flat")
    index.cp.nredo = 10  # a single start may put two centroids into one cluster
    with use_gpu_clustering(index):
        index.train(vectors)
    index.add(vectors)
    assert [index.invlists.list_size(number) for number in range(4)] == [50] * 4
    assert not index.clustering_index


def test_a_substitute_library_is_named() -> None:
    """faiss-cpu or its GPU build; a library that is not installed raises ImportError."""
    assert get_installed_version("faiss-cpu") in (faiss.__version__, f"faiss-gpu-cu12 {faiss.__version__}")
    with pytest.raises(ImportError):
        get_installed_version("no-such-library")
