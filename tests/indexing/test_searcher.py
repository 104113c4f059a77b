"""Searching shards as one index: each item once, re-ranked by stored vectors."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf
from indexmill.tasks.indexing.reranking import compute_bounds, make_store
from indexmill.tasks.indexing.searcher import Searcher, select_distinct_top_k
from indexmill.tasks.indexing.soar import fill_index, train_soar
from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.neighbors import ann_recall_at

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


def make_clustered(count: int, seed: int) -> np.ndarray:
    """Vectors around 12 centers, so that lists differ in what they are worth to a query."""
    random = np.random.default_rng(seed)
    vectors = unit(12, seed=3)[random.integers(0, 12, count)] + 0.15 * random.standard_normal((count, DIM), dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def make_clustered_searcher(
    metric: str, *, spill: bool, pca_dims: int | None = None, shards: int = 1
) -> tuple[Searcher, np.ndarray, np.ndarray]:
    """A searcher over clustered vectors with 16 lists per shard, queries, and their ten exact neighbors."""
    vectors, queries = make_clustered(3000, 1), make_clustered(60, 2)
    if metric == "ip":
        vectors, queries = vectors * np.linspace(0.5, 2, 3000, dtype=np.float32)[:, None], queries * 3
    ids = np.sort(np.random.default_rng(4).choice(2**62, 3000, replace=False))
    trained = train_soar(vectors, 16, 8, metric, pca_dims=pca_dims)
    parts = [slice(number, None, shards) for number in range(shards)]
    indexes = [fill_index(trained, [(ids[part], vectors[part])], spill=spill) for part in parts]
    stores = [make_store(ids[part], np.ascontiguousarray(vectors[part]), metric) for part in parts]
    exact = exact_search(queries, [(ids, vectors)], 10, FAISS_METRICS[metric])[1]
    return Searcher(indexes, metric, SearchParams(spill=spill), stores=stores), queries, exact


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize(("spill", "pca_dims", "shards"), [(True, None, 1), (False, 8, 1), (True, 8, 3)])
def test_a_margin_beyond_all_lists_changes_nothing(metric: str, spill: bool, pca_dims: int | None, shards: int) -> None:
    searcher, queries, _ = make_clustered_searcher(metric, spill=spill, pca_dims=pca_dims, shards=shards)
    params = SearchParams(nprobe=6, rerank_candidates=400)
    searcher.set_search_params(params)
    scores, ids = searcher.search(queries, 10)
    searcher.set_search_params(params.model_copy(update={"probe_margin": 1e9}))
    pruned_scores, pruned_ids = searcher.search(queries, 10)
    assert np.array_equal(pruned_ids, ids)
    assert pruned_scores == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_margin_skips_the_lists_that_score_worse(metric: str) -> None:
    """All entries of the visited lists are re-ranked, so that the results are those of an exact search within the lists."""
    searcher, queries, _ = make_clustered_searcher(metric, spill=False)
    ivf = find_ivf(searcher.shards[0])
    store = searcher.stores[0]
    centroids = ivf.quantizer.reconstruct_n(0, 16)
    searcher.set_search_params(SearchParams(nprobe=9, rerank_candidates=3000, probe_margin=0.3))
    found = searcher.search(queries, 10)[1]
    visited = []
    for row, query in enumerate(queries):
        worse_by = -centroids @ query if metric == "cosine" else np.square(centroids - query).sum(axis=1)
        nearest = np.argsort(worse_by)[:9]
        lists = [number for number in nearest if worse_by[number] <= worse_by[nearest[:4]].mean() + 0.3]
        rows = np.concatenate(
            [faiss.rev_swig_ptr(ivf.invlists.get_ids(int(number)), ivf.invlists.list_size(int(number))) for number in lists]
        )
        exact = -store.vectors[rows] @ query if metric == "cosine" else np.square(store.vectors[rows] - query).sum(axis=1)
        assert found[row].tolist() == store.ids[rows[np.argsort(exact)[:10]]].tolist()
        visited.append(len(lists))
    assert min(visited) < max(visited)


def test_single_queries_with_a_margin_give_the_same_results_as_a_batch() -> None:
    searcher, queries, exact = make_clustered_searcher("cosine", spill=True, pca_dims=8)
    searcher.set_search_params(SearchParams(nprobe=8, rerank_candidates=200, probe_margin=0.1))
    scores, ids = searcher.search(queries, 10)
    for row, query in enumerate(queries):
        single_scores, single_ids = searcher.search(query[None], 10)
        assert np.array_equal(single_ids[0], ids[row])
        assert single_scores[0] == pytest.approx(scores[row], abs=1e-6)
    assert np.mean([len(set(row) & set(expected)) for row, expected in zip(ids, exact, strict=True)]) > 6


def test_a_wider_margin_never_lowers_the_recall() -> None:
    searcher, queries, exact = make_clustered_searcher("ip", spill=False)
    recalls = []
    for margin in (0.0, 0.3, 1.0, 9.0):
        searcher.set_search_params(SearchParams(nprobe=16, rerank_candidates=3000, probe_margin=margin))
        recalls.append(ann_recall_at(searcher.search(queries, 10)[1], exact, 10).mean())
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]
    assert recalls[-1] == 1


@pytest.mark.parametrize("count", [1, 60])
def test_queries_with_too_few_results_visit_all_lists(count: int) -> None:
    """With 900 vectors in 16 lists and no margin, the visited lists of many queries hold fewer than 100 items."""
    trained = train_soar(VECTORS, 16, 8, "cosine")
    store = make_store(IDS, VECTORS, "cosine")
    searcher = Searcher([fill_index(trained, [(IDS, VECTORS)])], "cosine", SearchParams(spill=True), stores=[store])
    queries = unit(count, seed=9)
    searcher.set_search_params(SearchParams(nprobe=16, rerank_candidates=2000, probe_margin=0.0))
    assert (searcher.search(queries, 250)[1] >= 0).all()
    searcher.set_search_params(SearchParams(nprobe=16, rerank_candidates=20, probe_margin=0.0))
    assert (searcher.search(queries, 250)[1] >= 0).all()  # deeper than the candidates: no list is skipped
    searcher.set_search_params(SearchParams(nprobe=16, rerank_candidates=2000, probe_margin=0.0))
    assert (searcher.search(queries, 901)[1][:, -1] == -1).all()


def test_equal_vectors_are_ordered_by_id_with_a_margin() -> None:
    vectors = np.repeat(unit(150), 6, axis=0)
    store = make_store(IDS, vectors, "cosine")
    searcher = Searcher(
        [fill_index(train_soar(VECTORS, 8, 8, "cosine"), [(IDS, vectors)])], "cosine", SearchParams(spill=True), stores=[store]
    )
    searcher.set_search_params(SearchParams(nprobe=8, rerank_candidates=2000, probe_margin=5.0))
    for queries in (QUERIES, QUERIES[:1]):
        ids = searcher.search(queries, 12)[1]
        assert (np.diff(ids.reshape(-1, 6), axis=1) > 0).all()


@pytest.mark.parametrize(("factory", "kind"), [("IVF8,PQ8x4fs", "float16"), ("HNSW16", "float32"), ("Flat", "float32")])
def test_what_has_no_margin_ignores_it(factory: str, kind: str) -> None:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    if "IVF" not in factory:
        index = faiss.IndexIDMap(index)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    searcher = Searcher([index], "cosine", stores=[make_store(IDS, VECTORS.astype(kind), "cosine")])
    assert not searcher.has_probe_margin
    expected = searcher.search(QUERIES, 5)
    searcher.set_search_params(SearchParams(probe_margin=0.0))
    assert np.array_equal(searcher.search(QUERIES, 5)[1], expected[1])
