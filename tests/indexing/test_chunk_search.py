"""Searches of an index of chunks return k items, each with its best chunk, in every family of indexes and with filters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.models import IndexConfig
from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import Side
from indexmill.storage.root import Root
from indexmill.tasks.indexing.chunk_search import ChunkMap, ChunkSearcher, find_best_chunks, keep_best_chunks
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.training import train_index
from tests.evaluation.embedding_sets import write_embeddings

DIM, ITEMS, QUERIES, K = 16, 300, 9, 10
FAMILIES = {
    "flat": {"factory": "Flat"},
    "ivf": {"factory": "IVF16,Flat"},
    "ivf-pq": {"factory": "IVF16,PQ4np"},  # np: without codes whose training takes long and that no search uses
    "ivf-pq re-ranked": {"factory": "IVF16,PQ4np", "rerank": "exact"},
    "hnsw": {"factory": "HNSW8"},
    "hnsw re-ranked": {"factory": "HNSW8", "rerank": "sq8"},
    "auto": {"factory": "auto"},
}


class Chunked:
    """Items with 1 to 6 chunks; the first has 300, all near the queries, so the nearest chunks are those of one item."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        counts = np.append(300, random.integers(1, 7, ITEMS - 1))
        self.item_ids = np.repeat(np.arange(ITEMS) * 7 + 1000, counts)
        numbers = np.concatenate([np.arange(count) for count in counts])
        vectors = random.normal(size=(len(self.item_ids), DIM))
        center = np.ones(DIM) * 2
        vectors[:300] = center + random.normal(scale=0.05, size=(300, DIM))
        queries = center + random.normal(scale=0.05, size=(QUERIES, DIM))
        order = random.permutation(len(vectors))  # chunk ids are hashes: those of an item are not next to each other
        self.item_ids, numbers, vectors = self.item_ids[order], numbers[order], vectors[order]
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        self.chunk_ids = np.arange(1, len(vectors) + 1)  # as `write_embeddings` numbers them
        self.chunks = ChunkMap(self.chunk_ids, self.item_ids, numbers)

    def rank(self, query: np.ndarray, allowed: np.ndarray | None = None) -> list[tuple[float, int, int]]:
        """Rank the items by the definition: score, item and its best chunk."""
        best: dict[int, tuple[float, int, int]] = {}
        for item, chunk, score in zip(self.item_ids.tolist(), self.chunk_ids.tolist(), (self.vectors @ query).tolist(), strict=True):
            if allowed is None or item in allowed:
                best[item] = max(best.get(item, (-2.0, 0, 0)), (score, item, chunk))
        return sorted(best.values(), reverse=True)


@pytest.fixture(scope="module")
def data() -> Chunked:
    return Chunked()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """One root for all families, whose shards are built once."""
    storage_root = Root(tmp_path_factory.mktemp("root"))
    yield storage_root
    storage_root.close()


@cache
def open_family(root: Root, data: Chunked, family: str) -> ChunkSearcher:
    """Build an index in two shards, and open it with the narrowest search."""
    sides: list[Side] = ["database"] * len(data.vectors)
    embeddings = write_embeddings(root, data.vectors, sides, [None] * len(sides), digest=f"c{list(FAMILIES).index(family)}")
    config = IndexConfig(**FAMILIES[family], shards=2, recall_target=0.5 if family == "auto" else None)
    trained = train_index(root, "some", embeddings, config, "first")
    shards = build_shards(root, "some", embeddings, trained, config).shards
    params = SearchParams(nprobe=1, ef_search=1, rerank_candidates=1)
    searcher = open_searcher(shards, root.file, "cosine", params.model_copy(update={"spill": trained.spill}), data.chunks)
    assert isinstance(searcher, ChunkSearcher)
    return searcher


@pytest.mark.parametrize("family", [name if name != "auto" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def test_k_items_come_back_and_not_k_chunks(root: Root, data: Chunked, family: str) -> None:
    """Even if the search visits one list, or a graph with one candidate, and the nearest 300 chunks are one item's."""
    searcher = open_family(root, data, family)
    assert (searcher.items, searcher.vectors) == (ITEMS, len(data.vectors))
    for k in (1, K, ITEMS):
        scores, ids = searcher.search(data.queries, k)
        assert scores.shape == ids.shape == (QUERIES, k)
        assert all(len(set(row)) == k and min(row) > 0 for row in ids.tolist())
        assert (np.diff(scores, axis=1) <= 0).all()
    _, beyond = searcher.search(data.queries, ITEMS + 5)
    assert ((beyond >= 0).sum(axis=1) == ITEMS).all()


@pytest.mark.parametrize("family", [name if name != "auto" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
@pytest.mark.parametrize("rerank", [True, False])
def test_filters_count_items(root: Root, data: Chunked, family: str, rerank: bool) -> None:
    """Of 20 allowed items 10 come back, and of 4 all; each chunk belongs to an allowed item."""
    searcher = open_family(root, data, family)
    for count in (20, 4):
        allowed = np.sort(np.unique(data.item_ids)[:: ITEMS // count][:count])
        scores, chunk_ids = searcher.search_chunks(data.queries, K, allowed_items=allowed, rerank=rerank)
        found = data.chunks.find_items(chunk_ids)
        for row, row_scores, query in zip(found, scores, data.queries, strict=True):
            items = row[row >= 0]
            assert len(set(items)) == len(items) == min(count, K)
            assert set(items) <= set(allowed)
            if family == "flat":
                expected = data.rank(query, allowed)[:K]
                assert items.tolist() == [item for _, item, _ in expected]
                assert row_scores[: len(items)] == pytest.approx([score for score, _, _ in expected], abs=1e-5)


@pytest.mark.parametrize("family", ["flat", "ivf", "hnsw", "ivf-pq re-ranked"])
def test_a_wide_search_is_exact(root: Root, data: Chunked, family: str) -> None:
    """The best chunk of each item decides, as in a comparison with every chunk."""
    searcher = open_family(root, data, family)
    narrow = searcher.params
    searcher.set_search_params(SearchParams(nprobe=16, ef_search=2000, rerank_candidates=2000))
    scores, chunk_ids = searcher.search_chunks(data.queries, K)
    searcher.set_search_params(narrow)
    for row, row_scores, query in zip(chunk_ids, scores, data.queries, strict=True):
        expected = data.rank(query)[:K]
        assert row.tolist() == [chunk for _, _, chunk in expected]
        assert row_scores == pytest.approx([score for score, _, _ in expected], abs=1e-5)


def test_the_map_finds_items_chunks_and_first_chunks() -> None:
    """Items 5 and 9; the first chunk of 9 is chunk 40."""
    chunks = ChunkMap(np.array([10, 20, 30, 40]), np.array([9, 5, 9, 9]), np.array([2, 0, 1, 0]))
    assert (chunks.items, chunks.max_chunks, len(chunks)) == (2, 3, 4)
    assert chunks.find_items(np.array([[10, 20], [-1, 33]])).tolist() == [[9, 5], [-1, -1]]
    assert chunks.find_chunks(np.array([3, 9])).tolist() == [10, 30, 40]
    assert chunks.find_chunks(np.array([], np.int64)).tolist() == []
    assert (chunks.find_first_chunk(9), chunks.find_first_chunk(5)) == (40, 20)
    with pytest.raises(KeyError):
        chunks.find_first_chunk(6)


def test_ties_go_to_the_smaller_item() -> None:
    """Chunks of items 8 and 3 have equal scores; empty ranks come last, even behind scores of minus infinity."""
    scores = np.array([[2.0, 1.0, 1.0, 1.0, -np.inf]], np.float32)
    best = keep_best_chunks(scores, np.array([[1, 2, 3, 4, -1]]), np.array([[8, 8, 7, 3, -1]]), 4, higher_is_better=True)
    assert best[1].tolist() == [[1, 4, 3, -1]]
    assert best[0].tolist() == [[2, 1, 1, -np.inf]]


@settings(deadline=None)
@given(data=st.data())
def test_any_distribution_of_chunks_gives_the_best_items(data: st.DataObject) -> None:
    """Compared with the definition, for both directions of scores; no search is deeper than (k - 1)m + 1."""
    item_ids = np.array(data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=40)))
    k, higher_is_better = data.draw(st.integers(1, 10)), data.draw(st.booleans())
    numbers = np.array([np.count_nonzero(item_ids[:row] == item) for row, item in enumerate(item_ids)])
    chunks = ChunkMap(np.arange(len(item_ids)), item_ids, numbers)
    scores = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(item_ids)).astype(np.float32)
    order = np.argsort(-scores if higher_is_better else scores)
    depths = []

    def search(queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        depths.append(depth)
        return scores[order[:depth]][None].repeat(len(queries), 0), order[:depth][None].repeat(len(queries), 0)

    _, found = find_best_chunks(search, chunks, np.zeros((2, 3), np.float32), k, len(item_ids), higher_is_better=higher_is_better)
    expected = list(dict.fromkeys(item_ids[order].tolist()))[:k]
    assert chunks.find_items(found).tolist() == [[*expected, *[-1] * (k - len(expected))]] * 2
    assert max(depths) <= min(len(item_ids), (k - 1) * chunks.max_chunks + 1)
