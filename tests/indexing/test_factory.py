"""Factories: which ones are accepted, the ids of every family, and shards that answer as one index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import InputError
from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.factory import check_factory, find_ivf, make_index, min_training_items
from indexmill.tasks.indexing.searcher import Searcher


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
