"""Filtered search, search without re-ranking, and stored vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing import filtered_search
from indexmill.tasks.indexing.filtered_search import reconstruct_vectors, search_filtered
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher, use_single_thread
from indexmill.tasks.indexing.soar import fill_index, train_soar

N, DIM, K = 1500, 32, 10
FAMILIES = ["Flat", "IVF16,Flat", "IVF16,SQ8", "HNSW16", "PCA32,IVF16,Flat", "IVF16,Flat re-ranked", "Flat re-ranked", "spilled"]
MIN_AGREEMENT = {
    "IVF16,SQ8": 0.97,
    "HNSW16": 0.97,
    "PCA32,IVF16,Flat": 0.9,
    "spilled": 0.8,
}  # PCA moves the origin, and with it inner products


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    vectors = random.standard_normal((N + 20, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(random.choice(2**62, N, replace=False)), vectors[:N], vectors[N:]


def make_searcher(family: str, ids: np.ndarray, vectors: np.ndarray) -> Searcher:
    """Two shards of the family, items dealt out in turn."""
    parts = [slice(0, None, 2), slice(1, None, 2)]
    if family == "spilled":
        trained = train_soar(vectors, 16, 16, "cosine")
        shards: list[Any] = [fill_index(trained, [(ids[part], vectors[part])]) for part in parts]
    else:
        shards = [make_index(family.removesuffix(" re-ranked"), ids[part], vectors[part]) for part in parts]
    is_reranked = family == "spilled" or family.endswith("re-ranked")
    stores = [make_store(ids[part], vectors[part].copy(), "cosine") for part in parts] if is_reranked else []
    return Searcher(shards, "cosine", SearchParams(nprobe=2, spill=family == "spilled"), stores=stores)


def make_index(factory: str, ids: np.ndarray, vectors: np.ndarray) -> Any:
    index: Any = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    index = index if "IVF" in factory else faiss.IndexIDMap2(index)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    return index


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.004, 0.3])
@pytest.mark.parametrize("brute_force_max", [0, 5000])
def test_a_filtered_search_returns_the_best_allowed_items(
    family: str, share: float, brute_force_max: int, data: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result agrees with exact search over the allowed items, although an unfiltered search visits two lists only.

    Brute force is exact in every family that has the vectors.
    """
    monkeypatch.setattr(filtered_search, "BRUTE_FORCE_MAX", brute_force_max)
    ids, vectors, queries = data
    chosen = np.random.default_rng(7).random(N) < share
    k = min(K, int(chosen.sum()))
    scores, retrieved = search_filtered(make_searcher(family, ids, vectors), queries, k, allowed_ids=ids[chosen])
    expected = ids[chosen][np.argsort(-(queries @ vectors[chosen].T), axis=1)[:, :k]]
    agreement = np.mean([len({*row} & {*exact}) / k for row, exact in zip(retrieved.tolist(), expected.tolist(), strict=True)])
    is_exact = brute_force_max > 0 and (family == "HNSW16" or family == "spilled")
    assert agreement >= (1 if is_exact else MIN_AGREEMENT.get(family, 1))
    assert set(retrieved.ravel().tolist()) <= set(ids[chosen].tolist())
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_items_have_their_vectors_and_unknown_ids_raise(family: str, data: tuple[np.ndarray, ...]) -> None:
    """Vectors are as added, within the loss of a code, from either shard; the error names an unknown id."""
    ids, vectors, _ = data
    rows = [3, 8, 1499]
    opened = make_searcher(family, ids, vectors)
    assert np.allclose(reconstruct_vectors(opened, ids[rows].tolist()), vectors[rows], atol=0.01 if "SQ8" in family else 1e-5)
    for unknown in (0, -1, int(ids[5]) + 1, 2**63 - 1):
        with pytest.raises(KeyError, match=str(unknown)):
            reconstruct_vectors(opened, [int(ids[0]), unknown])


def test_concurrent_searches_do_not_affect_each_other(data: tuple[np.ndarray, ...]) -> None:
    """Each k has its own number of candidates: four threads with k from 1 to 20 get the results of each k alone."""
    ids, vectors, queries = data
    opened = make_searcher("spilled", ids, vectors)
    alone = {k: opened.search(queries, k)[1] for k in range(1, 21)}
    shared = make_searcher("spilled", ids, vectors)
    with ThreadPoolExecutor(4, initializer=use_single_thread) as pool:
        results = list(pool.map(lambda k: (k, shared.search(queries, k)[1]), [*range(1, 21), *range(20, 0, -1)]))
    assert all(np.array_equal(items, alone[k]) for k, items in results)


@pytest.mark.parametrize("has_store", [False, True])
@pytest.mark.parametrize("brute_force_max", [0, 5000])
def test_a_graph_search_that_reaches_no_allowed_item_is_completed(
    has_store: bool, brute_force_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6,000 items are nearer to the queries than the 30 allowed ones: the graph alone returns too few, the search
    returns all.
    """
    monkeypatch.setattr(filtered_search, "BRUTE_FORCE_MAX", brute_force_max)
    random = np.random.default_rng(11)
    near, far = random.standard_normal((6000, 8)), random.standard_normal((30, 8)) + 60
    vectors, queries = np.concatenate([near, far]).astype(np.float32), random.standard_normal((5, 8)).astype(np.float32)
    ids = np.arange(1, len(vectors) + 1) * 7
    index: Any = faiss.IndexIDMap2(faiss.IndexHNSWFlat(8, 8))
    index.add_with_ids(vectors, ids)
    allowed_ids = ids[6000:]
    alone = index.search(queries, 10, params=filtered_search._make_filter_params(index, allowed_ids))[1]
    assert (alone < 0).any()
    opened = Searcher([index], "l2", stores=[make_store(ids, vectors, "l2")] if has_store else [])
    scores, retrieved = search_filtered(opened, queries, 40, allowed_ids=allowed_ids)
    distances = np.square(queries[:, None] - vectors[6000:]).sum(axis=2)
    assert retrieved[:, :30].tolist() == allowed_ids[np.argsort(distances, axis=1)].tolist()
    assert np.allclose(scores[:, :30], np.sort(distances, axis=1), rtol=1e-4)
    assert (retrieved[:, 30:] == -1).all()


def test_without_reranking_scores_come_from_codes(data: tuple[np.ndarray, ...]) -> None:
    """They are coarser than the true inner products, which re-ranking gives; the next search re-ranks again."""
    ids, vectors, queries = data
    opened = make_searcher("spilled", ids, vectors)
    coarse, first = search_filtered(opened, queries, K, rerank=False)
    fine, second = search_filtered(opened, queries, K)
    row_of = {item: row for row, item in enumerate(ids.tolist())}
    exact = [[queries[n] @ vectors[row_of[item]] for item in row] for n, row in enumerate(second.tolist())]
    assert np.allclose(fine, exact, atol=1e-5)
    rough = [[queries[n] @ vectors[row_of[item]] for item in row] for n, row in enumerate(first.tolist())]
    assert not np.allclose(coarse, rough, atol=1e-3)
    assert all(len(set(row)) == K for row in first.tolist())
