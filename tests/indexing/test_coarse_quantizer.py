"""Many lists: centroids from k-means in two levels, found through a graph, with the metric and the recall of flat ones.

`MANY_LISTS` is lowered, so that hundreds of lists are many; everything else is as with 16,384.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.root import Root
from indexmill.tasks.indexing import coarse_quantizer, soar
from indexmill.tasks.indexing.coarse_quantizer import expand_factory, has_graph, train_centroids
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf, make_index
from indexmill.tasks.indexing.shard_store import read_index
from indexmill.tasks.indexing.soar import ListAssigner, assign_lists, fill_index, train_soar
from indexmill.tasks.indexing.training import train_index
from tests.indexing.nightly import Database, draw_centers, draw_clustered, normalize

DIM, LISTS, ITEMS = 24, 256, 12_000
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def many_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred lists are many."""
    for module in (coarse_quantizer, soar):
        monkeypatch.setattr(module, "MANY_LISTS", 200)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Unit vectors around 300 centers, whose neighborhoods overlap."""
    random = np.random.default_rng(3)
    return draw_clustered(random, draw_centers(random, 300, DIM), ITEMS + 500, spread=0.8)


def scale(vectors: np.ndarray, metric: str) -> np.ndarray:
    """For inner products, vectors of different lengths."""
    lengths = np.linspace(0.7, 1.3, len(vectors), dtype=np.float32)[:, None]
    return vectors if metric == "cosine" else vectors * np.random.default_rng(1).permutation(lengths)


def compute_recall(index: Any, items: np.ndarray, queries: np.ndarray, metric: str, nprobe: int) -> float:
    """recall@10 of an index that holds item i under the id i."""
    find_ivf(index).nprobe = nprobe  # type: ignore[union-attr]
    exact = faiss.knn(queries, items, 10, metric=FAISS_METRICS[metric])[1]
    retrieved = index.search(queries, 10)[1]
    return float(np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(exact, retrieved, strict=True)]))


@pytest.mark.parametrize(
    ("factory", "expanded"),
    [
        ("IVF65536,PQ48", "IVF65536_HNSW32,PQ48"),
        ("PCA64,IVF16384,Flat", "PCA64,IVF16384_HNSW32,Flat"),
        ("IVF16384", "IVF16384_HNSW32"),
        ("IVF16383,Flat", "IVF16383,Flat"),
        ("IVF65536_HNSW16,PQ48", "IVF65536_HNSW16,PQ48"),
        ("IVF65536(IVF256,Flat),Flat", "IVF65536(IVF256,Flat),Flat"),
        ("HNSW32", "HNSW32"),
    ],
)
def test_only_flat_quantizers_of_many_lists_become_graphs(factory: str, expanded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quantizer that the factory names stays."""
    monkeypatch.setattr(coarse_quantizer, "MANY_LISTS", 16_384)
    assert expand_factory(factory) == expanded


@pytest.mark.parametrize("metric", ["cosine", pytest.param("ip", marks=SLOW), pytest.param("l2", marks=SLOW)])
@pytest.mark.parametrize("factory", ["IVF256,Flat", pytest.param("PCA16,IVF256,Flat", marks=SLOW)])
def test_a_graph_quantizer_has_the_metric_and_nearly_the_recall_of_a_flat_one(
    factory: str, metric: str, root: Root, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 16 of 256 lists visited, recall@10 is at most 0.03 below that of flat k-means and flat assignment."""
    data = scale(vectors, metric)
    items, queries = data[:ITEMS], data[ITEMS:]
    database = Database(root, DIM)
    database.insert(items)
    recalls = {}
    for name, many in (("graph", 200), ("flat", 10**9)):
        monkeypatch.setattr(coarse_quantizer, "MANY_LISTS", many)
        trained = train_index(root, name, database.make_record(), IndexConfig(factory=factory, metric=metric), "")
        index: Any = read_index(root.file(trained.index), trained.index)
        ivf: Any = find_ivf(index)
        assert has_graph(ivf) == (name == "graph") == ("_HNSW32" in trained.factory)
        assert ivf.metric_type == ivf.quantizer.metric_type == FAISS_METRICS[metric]
        assert ivf.quantizer.ntotal == trained.lists == 256
        index.add_with_ids(items, np.arange(ITEMS))
        recalls[name] = compute_recall(index, items, queries, metric, nprobe=16)
    assert 0.4 < recalls["flat"] < 1
    assert recalls["graph"] > recalls["flat"] - 0.03


def test_two_levels_are_nearly_as_good_as_flat_k_means(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean squared distance to the nearest centroid is at most 4 % larger than after 25 flat iterations.

    Centroids have length 1, and equal inputs give equal bytes.
    """
    two_levels = train_centroids(vectors, LISTS, "cosine", 0, 64)
    np.testing.assert_array_equal(two_levels, train_centroids(vectors, LISTS, "cosine", 0, 64))
    assert not np.array_equal(two_levels, train_centroids(vectors, LISTS, "cosine", 1, 64))
    np.testing.assert_allclose(np.linalg.norm(two_levels, axis=1), 1, atol=1e-5)
    monkeypatch.setattr(coarse_quantizer, "MANY_LISTS", 10**9)
    flat = train_centroids(vectors, LISTS, "cosine", 0, 64)
    errors = [faiss.knn(vectors, np.ascontiguousarray(centroids), 1)[0].mean() for centroids in (two_levels, flat)]
    assert errors[0] < 1.04 * errors[1]
    assert len(np.unique(two_levels.round(4), axis=0)) == LISTS


def test_lists_are_shared_by_size() -> None:
    """By hand: 8 lists for groups of 1, 0, 5 and 10 vectors; as many lists as vectors, and fewer."""
    assert coarse_quantizer._share_lists(np.array([1, 0, 5, 10]), 8).tolist() == [0, 0, 3, 5]
    assert coarse_quantizer._share_lists(np.array([1, 0, 5, 10]), 16).tolist() == [1, 0, 5, 10]


def test_centroids_of_copies_are_trained() -> None:
    """Three distinct vectors, each many times, and 220 lists: as flat k-means, it gives as many centroids as lists."""
    vectors = normalize(np.repeat(np.eye(3, 8), 100, axis=0))
    assert train_centroids(vectors, 220, "l2", 0, 64).shape == (220, 8)


def test_a_user_s_graph_works_with_inner_products_and_few_lists(root: Root, vectors: np.ndarray) -> None:
    """FAISS itself trains such an index with spherical centroids only."""
    database = Database(root, DIM)
    database.insert(scale(vectors, "ip")[:2000])
    trained = train_index(root, "index", database.make_record(), IndexConfig(factory="IVF16_HNSW8,Flat", metric="ip"), "")
    index: Any = read_index(root.file(trained.index), trained.index)
    assert (trained.lists, index.quantizer.ntotal, index.quantizer.metric_type) == (16, 16, faiss.METRIC_INNER_PRODUCT)


@pytest.mark.parametrize("metric", [pytest.param("cosine", marks=SLOW), "ip", pytest.param("l2", marks=SLOW)])
def test_spill_lists_through_a_graph_are_those_of_all_distances(metric: str, vectors: np.ndarray) -> None:
    """For 99 % of the vectors, also where the quantizer orders its lists by inner product."""
    data = scale(vectors, metric)
    trained: Any = train_soar(data[:ITEMS], LISTS, 8, metric)
    assert has_graph(trained)
    assert trained.quantizer.metric_type == FAISS_METRICS[metric]
    centroids = trained.quantizer.reconstruct_n(0, LISTS)
    assigner = ListAssigner(centroids, trained.quantizer)
    first, second = assigner.assign(data[ITEMS:])
    expected_first, expected_second = assign_lists(data[ITEMS:], centroids)
    assert (first == expected_first).mean() > 0.99
    assert (second == expected_second).mean() > 0.98
    assert (first != second).all()
    assert (assigner.assign_nearest(data[ITEMS:]) == first).all()
    index = fill_index(trained, [(np.arange(ITEMS), data[:ITEMS])])
    assert index.ntotal == 2 * ITEMS
    read = faiss.deserialize_index(faiss.serialize_index(index))
    quantizer: Any = faiss.downcast_index(find_ivf(read).quantizer)  # type: ignore[union-attr]
    assert quantizer.hnsw.efSearch == coarse_quantizer.GRAPH_EF


def test_an_index_with_a_graph_can_be_made_for_every_metric() -> None:
    """The factory's quantizer has the metric of the index."""
    for metric, number in FAISS_METRICS.items():
        index: Any = make_index(IndexConfig(factory="IVF256,PQ8x4fs", metric=metric), DIM)  # type: ignore[arg-type]
        assert index.quantizer.metric_type == number
