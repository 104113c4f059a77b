"""Exact search, agreement with it, and merging shards."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import InputError
from indexmill.tasks.indexing.factory import check_factory, find_ivf, make_index, min_training_items
from indexmill.tasks.indexing.searcher import Searcher, select_top_k
from indexmill.tasks.metrics.neighbors import ann_recall_at, distance_recall_at, exact_search


def normalised(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_exact_search_over_blocks_is_numpys_brute_force(metric: int) -> None:
    """Blocks of any size, ids of any order."""
    random = np.random.default_rng(0)
    queries, database = (random.standard_normal((count, 8)).astype(np.float32) for count in (20, 300))
    ids = random.permutation(10_000)[:300].astype(np.int64)
    blocks = [(ids[start : start + 70], database[start : start + 70]) for start in range(0, 300, 70)]
    scores, found = exact_search(queries, blocks, 10, metric)
    if metric == faiss.METRIC_L2:
        table = ((queries[:, None] - database[None]) ** 2).sum(axis=2)
        order = np.argsort(table, axis=1)[:, :10]
    else:
        table = queries @ database.T
        order = np.argsort(-table, axis=1)[:, :10]
    assert found.tolist() == ids[order].tolist()
    assert scores == pytest.approx(np.take_along_axis(table, order, axis=1), abs=1e-4)


def test_equal_scores_stand_by_ascending_id_and_empty_places_last() -> None:
    """Ids 9 and 4 tie at 0.5; -1 marks a place that stayed empty, whatever its score."""
    scores = np.array([[0.5, 0.9, 0.5, 3.0]], np.float32)
    ids = np.array([[9, 7, 4, -1]], np.int64)
    assert select_top_k(scores, ids, 4, higher_is_better=True)[1].tolist() == [[7, 4, 9, -1]]
    assert select_top_k(scores, ids, 4, higher_is_better=False)[1].tolist() == [[4, 9, 7, -1]]


def test_overlap_divides_by_k_or_by_what_there_is() -> None:
    """Two of three exact neighbours found is 2/3; of a database of two items both found is 1, not 2/3."""
    found = np.array([[1, 2, 9], [5, 6, -1]])
    exact = np.array([[1, 2, 3], [5, 6, -1]])
    assert ann_recall_at(found, exact, 3) == pytest.approx([2 / 3, 1])


def test_distance_recall_forgives_ties() -> None:
    """An item as near as the k-th exact one counts though its id is another; one farther than that by 0.01 does not."""
    found, ids = np.array([[0.9, 0.8, 0.79]], np.float32), np.array([[1, 2, 3]])
    assert distance_recall_at(found, ids, np.array([[0.9, 0.8, 0.8]], np.float32), 3, higher_is_better=True) == pytest.approx([2 / 3])
    assert distance_recall_at(found, ids, np.array([[0.9, 0.8, 0.79]], np.float32), 3, higher_is_better=True).tolist() == [1]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 12), st.sampled_from(["Flat", "IVF1,Flat"]))
def test_shards_answer_as_one_index(count: int, shards: int, k: int, factory: str) -> None:
    """However the items are dealt out, the merged answer is the whole index's."""
    random = np.random.default_rng(count)
    vectors, queries = normalised(random.standard_normal((count, 4))), normalised(random.standard_normal((3, 4)))
    ids = np.arange(1, count + 1) * 7
    config = IndexConfig(factory=factory)

    def searcher(parts: int) -> Searcher:
        made = []
        for part in range(parts):
            index = make_index(config, 4)
            index.train(vectors)
            index.add_with_ids(vectors[ids % parts == part], ids[ids % parts == part])
            made.append(index)
        return Searcher(made, "cosine")

    one, many = searcher(1).search(queries, k), searcher(shards).search(queries, k)
    assert many[1].tolist() == one[1].tolist()
    assert many[0] == pytest.approx(one[0], abs=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF4,Flat", "IVF4,PQ2x4", "PCA4,IVF4,Flat", "PCA4,Flat", "IVF4,SQ8"])
def test_every_family_takes_our_ids_and_finds_them_again(factory: str) -> None:
    """Ids are 63-bit hashes, not row numbers, whether the family has native ids or not."""
    random = np.random.default_rng(1)
    vectors = normalised(random.standard_normal((300, 8)))
    ids = random.integers(1, 2**62, 300)
    index = make_index(IndexConfig(factory=factory), 8)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    _, found = Searcher([index], "cosine", nprobe=4).search(vectors, 3)
    assert np.isin(found, ids).all()
    by_id = dict(zip(ids.tolist(), vectors, strict=True))
    likeness = np.mean([vector @ by_id[item] for vector, item in zip(vectors, found[:, 0].tolist(), strict=True)])
    assert likeness > (0.5 if "PQ" in factory or "PCA" in factory else 0.99)  # ids given to the wrong vectors: about 0
    assert (find_ivf(index) is not None) == ("IVF" in factory)


@pytest.mark.parametrize("factory", ["Bogus", "IVF", "IVF64,", "PQ7", "IDMap2,Flat", "IVF16,Flat,RFlat", "Flat,Refine(SQ8)"])
def test_a_factory_that_cannot_work_is_refused_before_any_work(factory: str) -> None:
    """FAISS's own reason, without its source lines."""
    with pytest.raises(InputError) as caught:
        check_factory(IndexConfig(factory=factory))
    assert factory in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_the_least_number_of_items_is_read_from_the_factory() -> None:
    """Lists, and centroids of a product quantizer's codes."""
    assert [min_training_items(factory) for factory in ("Flat", "HNSW32", "IVF64,Flat", "IVF50,PQ8x8", "IVF8,PQ4x4fs", "OPQ8,IVF300,PQ8")] == [
        1, 1, 64, 256, 16, 300,
    ]  # fmt: skip
