"""Searching shards as one index: each item once, re-ranked by stored vectors."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.reranking import compute_bounds, make_store
from indexmill.tasks.indexing.searcher import Searcher, select_distinct_top_k
from indexmill.tasks.indexing.soar import fill_index, train_soar

DIM = 16


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = unit(900), unit(40, seed=5)
IDS = np.sort(np.random.default_rng(1).choice(2**62, 900, replace=False))


def search_exactly(k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Rank all items by float64 scores, ties by id."""
    dots = QUERIES.astype(float) @ VECTORS.T.astype(float)
    keys = ((QUERIES[:, None].astype(float) - VECTORS) ** 2).sum(2) if metric == "l2" else -dots
    order = np.lexsort((np.broadcast_to(IDS, keys.shape), keys), axis=1)[:, :k]
    return np.take_along_axis(keys if metric == "l2" else dots, order, 1), IDS[order]


def make_spilled_searcher(metric: str, shards: int = 1, **values: int) -> Searcher:
    trained = train_soar(VECTORS, 8, 8, metric)
    parts = [slice(number, None, shards) for number in range(shards)]
    indexes = [fill_index(trained, [(IDS[part], VECTORS[part])]) for part in parts]
    stores = [make_store(IDS[part], np.ascontiguousarray(VECTORS[part]), metric) for part in parts]
    return Searcher(indexes, metric, SearchParams(spill=True, **values), stores=stores)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("shards", [1, 3])
def test_all_lists_and_candidates_give_exact_results(metric: str, shards: int) -> None:
    searcher = make_spilled_searcher(metric, shards, nprobe=8, rerank_candidates=2000)
    scores, ids = searcher.search(QUERIES, 10)
    expected, exact = search_exactly(10, metric)
    assert np.array_equal(ids, exact)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert searcher.items == 900
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64


def test_single_queries_give_the_same_results_as_a_batch() -> None:
    searcher = make_spilled_searcher("cosine", nprobe=3, rerank_candidates=30)
    scores, ids = searcher.search(QUERIES, 7)
    for row, query in enumerate(QUERIES):
        single_scores, single_ids = searcher.search(query[None], 7)
        assert np.array_equal(single_ids[0], ids[row])
        assert single_scores[0] == pytest.approx(scores[row], abs=1e-6)


def test_more_candidates_never_lower_the_recall() -> None:
    _, exact = search_exactly(10, "cosine")
    hits = []
    searcher = make_spilled_searcher("cosine")
    for rerank_candidates in (20, 40, 200):
        searcher.set_search_params(SearchParams(nprobe=8, rerank_candidates=rerank_candidates))
        retrieved = searcher.search(QUERIES, 10)[1]
        hits.append((retrieved[:, :, None] == exact[:, None]).any(1).sum())
    assert hits == sorted(hits)
    assert hits[0] < hits[-1] == exact.size


def test_spill_without_stored_vectors_returns_each_item_once() -> None:
    trained = train_soar(VECTORS, 8, 8, "cosine")
    searcher = Searcher([fill_index(trained, [(IDS, VECTORS)])], "cosine", SearchParams(nprobe=8, spill=True))
    _, ids = searcher.search(QUERIES, 20)
    assert all(len(set(row)) == 20 for row in ids.tolist())
    assert searcher.items == 900


def test_ranks_beyond_the_items_are_empty() -> None:
    trained = train_soar(VECTORS, 2, 8, "cosine")
    searcher = Searcher(
        [fill_index(trained, [(IDS[:3], VECTORS[:3])])],
        "cosine",
        SearchParams(nprobe=2, spill=True),
        stores=[make_store(IDS[:3], VECTORS[:3].copy(), "cosine")],
    )
    scores, ids = searcher.search(VECTORS[:2], 5)
    assert ids[0, 0] == IDS[0]
    assert (ids[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()


def test_equal_vectors_are_ordered_by_id() -> None:
    same = np.repeat(VECTORS[:1], 30, axis=0)
    trained = train_soar(VECTORS, 4, 8, "cosine")
    searcher = Searcher(
        [fill_index(trained, [(IDS[:30], same)])],
        "cosine",
        SearchParams(nprobe=4, rerank_candidates=100, spill=True),
        stores=[make_store(IDS[:30], same, "cosine")],
    )
    assert searcher.search(VECTORS[:1], 30)[1][0].tolist() == IDS[:30].tolist()


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4fs"])
@pytest.mark.parametrize("kind", ["float32", "float16", "uint8"])
def test_every_family_can_be_reranked(factory: str, kind: str) -> None:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index = index if "IVF" in factory else faiss.IndexIDMap2(index)
    index.add_with_ids(VECTORS, IDS)
    bounds = compute_bounds(VECTORS)
    stored = VECTORS.astype(kind) if kind != "uint8" else np.rint((VECTORS - bounds[0]) / bounds[1] * 255).astype(np.uint8)
    params = SearchParams(nprobe=8, ef_search=400, rerank_candidates=300)
    searcher = Searcher([index], "cosine", params, stores=[make_store(IDS, stored, "cosine", bounds)])
    _, exact = search_exactly(10, "cosine")
    retrieved = searcher.search(QUERIES, 10)[1]
    recall = (retrieved[:, :, None] == exact[:, None]).any(1).mean()
    assert recall >= {"float32": 0.99, "float16": 0.98, "uint8": 0.9}[kind]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=6), min_size=1, max_size=4),
    st.integers(1, 8),
    st.booleans(),
)
def test_distinct_selection_keeps_the_first_of_each_id(rows: list[list[tuple[int, int]]], k: int, higher_is_better: bool) -> None:
    """Compare with plain Python: sort, take each id once, pad with -1. An id has one score; ties come in any order."""
    score_of = {item: float(score) for row in rows for score, item in row}
    worst = -np.inf if higher_is_better else np.inf
    filled_rows = [
        sorted((item for _, item in row), key=lambda item: -score_of[item] if higher_is_better else score_of[item]) for row in rows
    ]
    ids = np.array([row + [-1] * (8 - len(row)) for row in filled_rows])
    scores = np.array([[score_of.get(item, worst) for item in row] for row in ids.tolist()], np.float32)
    selected_scores, selected = select_distinct_top_k(scores, ids, k, higher_is_better=higher_is_better)
    for row, row_ids, row_scores in zip(filled_rows, selected.tolist(), selected_scores.tolist(), strict=True):
        expected = sorted(set(row), key=lambda item: (-score_of[item] if higher_is_better else score_of[item], item))[:k]
        assert row_ids == expected + [-1] * (k - len(expected))
        assert row_scores == [score_of[item] for item in expected] + [worst] * (k - len(expected))
