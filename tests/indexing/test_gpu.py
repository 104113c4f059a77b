"""The same answers whichever processor gives them; where FAISS has no GPU, the processor's own."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from indexmill.storage.versions import get_installed_version
from indexmill.tasks.indexing.factory import FAISS_METRICS, gpu_clustering, knn


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_exact_search_is_what_numpy_finds(metric: str) -> None:
    """All pairs by hand: the same rows, scores to within float32."""
    random = np.random.default_rng(0)
    queries, vectors = random.normal(size=(20, 16)).astype(np.float32), random.normal(size=(300, 16)).astype(np.float32)
    scores, rows = knn(queries, vectors, 5, FAISS_METRICS[metric])
    pairs = queries @ vectors.T if metric == "cosine" else -((queries[:, None] - vectors) ** 2).sum(axis=2)
    expected = np.argsort(-pairs, axis=1)[:, :5]
    assert rows.tolist() == expected.tolist()
    found = np.take_along_axis(pairs, expected, axis=1)
    np.testing.assert_allclose(scores, found if metric == "cosine" else -found, rtol=1e-4, atol=1e-4)


def test_lists_are_learnt_and_the_device_is_let_go() -> None:
    """Every list has its share of four far clusters, and the index keeps nothing of what it was trained with."""
    centres = 100 * np.eye(4, 8, dtype=np.float32)
    vectors = np.repeat(centres, 50, axis=0) + np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    index = faiss.index_factory(8, "IVF4,Flat")
    index.cp.nredo = 10  # one start may put two centroids into one cluster
    with gpu_clustering(index):
        index.train(vectors)
    index.add(vectors)
    assert [index.invlists.list_size(number) for number in range(4)] == [50] * 4
    assert not index.clustering_index


def test_a_library_in_anothers_place_is_named() -> None:
    """faiss-cpu here; what is not installed at all is an error."""
    assert get_installed_version("faiss-cpu") in (faiss.__version__, f"faiss-gpu-cu12 {faiss.__version__}")
    with pytest.raises(ImportError):
        get_installed_version("no-such-library")
