"""Factories: which ones are accepted, the ids of every family, and shards that answer as one index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import InputError
from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.factory import find_ivf, list_layers, make_index, min_training_items
from indexmill.tasks.indexing.factory_check import PROVEN_FAMILIES, check_factory, shrink_lists, try_factory
from indexmill.tasks.indexing.searcher import Searcher

SLOW = pytest.mark.slow


def normalize(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 12), st.sampled_from(["Flat", "IVF1,Flat"]))
def test_shards_return_the_results_of_one_index(count: int, shards: int, k: int, factory: str) -> None:
    """However items are assigned to shards, the merged result is that of the whole index."""
    random = np.random.default_rng(count)
    vectors, queries = normalize(random.standard_normal((count, 4))), normalize(random.standard_normal((3, 4)))
    ids = np.arange(1, count + 1) * 7
    config = IndexConfig(factory=factory)

    def make_searcher(parts: int) -> Searcher:
        indexes = []
        for part in range(parts):
            index = make_index(config, 4)
            index.train(vectors)
            index.add_with_ids(vectors[ids % parts == part], ids[ids % parts == part])
            indexes.append(index)
        return Searcher(indexes, "cosine")

    (scores, ids_found), (shard_scores, shard_ids) = (make_searcher(parts).search(queries, k) for parts in (1, shards))
    assert shard_ids.tolist() == ids_found.tolist()
    assert shard_scores == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("factory", ["PQ2x4", "IVF4,PQ2x4", "PCA4,IVF4,PQ2x4", "IVF4_HNSW4,PQ2x4"])
def test_codes_are_not_ordered_for_polysemous_search(factory: str) -> None:
    """FAISS does so by default, at length, and finds the same neighbors at the same distances."""
    vectors = normalize(np.random.default_rng(3).standard_normal((400, 8)))
    own = make_index(IndexConfig(factory=factory), 8)
    default: Any = make_index(IndexConfig(factory=factory), 8)
    (codes,) = [layer for layer in list_layers(default) if hasattr(layer, "do_polysemous_training")]
    codes.do_polysemous_training = True
    results = []
    for index in (own, default):
        index.train(vectors)
        index.add_with_ids(vectors, np.arange(400))
        results.append(Searcher([index], "cosine", SearchParams(nprobe=4)).search(vectors[:50], 5))
    assert [layer.do_polysemous_training for layer in list_layers(own) if hasattr(layer, "do_polysemous_training")] == [False]
    (scores, _), (expected, _) = results
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,Flat", "IVF4,PQ2x4", "PCA4,IVF4,Flat", "PCA4,Flat", "IVF4,SQ8"])
def test_every_family_stores_and_returns_item_ids(factory: str) -> None:
    """Ids are 63-bit hashes, not row numbers, whether the family has native ids or not."""
    random = np.random.default_rng(1)
    vectors = normalize(random.standard_normal((300, 8)))
    ids = random.integers(1, 2**62, 300)
    index = make_index(IndexConfig(factory=factory), 8)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    _, retrieved = Searcher([index], "cosine", SearchParams(nprobe=4)).search(vectors, 3)
    assert np.isin(retrieved, ids).all()
    by_id = dict(zip(ids.tolist(), vectors, strict=True))
    similarity = np.mean([vector @ by_id[item] for vector, item in zip(vectors, retrieved[:, 0].tolist(), strict=True)])
    assert similarity > (0.5 if "PQ" in factory or "PCA" in factory else 0.99)  # about 0 if ids belonged to other vectors
    assert (find_ivf(index) is not None) == ("IVF" in factory)


@pytest.mark.parametrize("factory", ["Bogus", "IVF", "IVF64,", "PQ7", "IDMap2,Flat", "IVF16,Flat,RFlat", "Flat,Refine(SQ8)"])
def test_an_impossible_factory_is_rejected_before_any_work(factory: str) -> None:
    """The error has FAISS's reason without its source position."""
    with pytest.raises(InputError) as caught:
        check_factory(IndexConfig(factory=factory))
    assert factory in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_the_minimum_of_training_items_follows_from_the_factory() -> None:
    """It is the number of lists, or of centroids of a product quantizer."""
    factories = ("Flat", "HNSW32", "IVF64,Flat", "IVF50,PQ8x8", "IVF8,PQ4x4fs", "OPQ8,IVF300,PQ8")
    assert [min_training_items(factory) for factory in factories] == [1, 1, 64, 256, 16, 300]


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("factory", ["HNSW32_PQ16", "HNSW16,PQ16x4", "PCA64,HNSW16_PQ16"])
def test_a_family_that_ignores_the_metric_is_rejected(factory: str, metric: str) -> None:
    """FAISS builds these graphs for L2 only. Read as similarities, their distances would put the nearest items last."""
    with pytest.raises(InputError, match="another metric") as caught:
        check_factory(IndexConfig.model_validate({"factory": factory, "metric": metric}))
    assert "IndexPQ with l2" in caught.value.got
    assert {layer.metric_type for layer in list_layers(make_index(IndexConfig(factory=factory, metric="l2"), 768))} == {1}


@pytest.mark.parametrize(
    ("factory", "metric", "fault"),
    [
        ("SQ8_direct", "cosine", "finds 3% of its items"),  # stores the integers 0 to 255
        pytest.param("IVF16,SQ8_direct", "cosine", "of its items", marks=SLOW),
        pytest.param("IVF64,PQ16+8", "l2", "not implemented", marks=SLOW),
        pytest.param("NSG32", "cosine", "smaller than 100", marks=SLOW),
        ("HNSW1", "cosine", "SIG"),
        pytest.param("IVF0,Flat", "cosine", "nprobe", marks=SLOW),
        ("IVF16,FlatPanorama8", "l2", "could not load"),
    ],
)
def test_a_factory_that_faiss_accepts_but_that_does_not_work_is_rejected(factory: str, metric: str, fault: str) -> None:
    """The trial runs in a process of its own, so that an abort becomes a message."""
    with pytest.raises(InputError, match="does not work") as caught:
        check_factory(IndexConfig.model_validate({"factory": factory, "metric": metric}))
    assert fault in caught.value.got


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize(
    "factory",
    [
        "Flat",
        "SQ4",
        "SQ6",
        "SQ8",
        "SQfp16",
        "SQbf16",
        "PQ8",
        "PQ8x4fs",
        "PQ8x6",
        "PQ8np",
        "HNSW",
        "HNSW8",
        "HNSW16,SQ8",
        "HNSW16_SQfp16",
        "IVF8,Flat",
        "IVF8_HNSW,Flat",
        "IVF8,SQ8",
        "IVF8,PQ8",
        "IVF8,PQ8x4fs",
        "PCA32,IVF8,Flat",
        "OPQ8,IVF8,PQ8x4fs",
        "PCA32,SQ8",
    ],
)
def test_proven_families_pass_the_trial(factory: str, metric: str) -> None:
    """They are not tried again before builds."""
    assert PROVEN_FAMILIES.fullmatch(factory)
    assert try_factory(factory, metric, 64) == ""


def test_the_trial_shrinks_only_lists_that_are_assigned_by_comparison() -> None:
    """Quantizers of other kinds have as many lists as their codes."""
    factories = ("IVF4096,Flat", "OPQ8,IVF64_HNSW32,PQ8", "IVF4,Flat", "IVF256(RCQ4x2),Flat", "IVF256_NSG32,Flat")
    assert [shrink_lists(factory) for factory in factories] == [
        "IVF8,Flat",
        "OPQ8,IVF8_HNSW32,PQ8",
        "IVF4,Flat",
        "IVF256(RCQ4x2),Flat",
        "IVF256_NSG32,Flat",
    ]
