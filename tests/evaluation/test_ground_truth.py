"""Ground truth that is brought up to date equals that of a search from nothing."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest

from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation import ground_truth
from indexmill.tasks.evaluation.ground_truth import TruthRequest, compute_ground_truth
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher
from tests.evaluation.counted_searches import count_searched
from tests.evaluation.small_index import METRIC, make_unit_vectors
from tests.storage.embedding_parts import add_vectors

K = 5
ITEMS = list(range(80))  # the content of each item: 60 of the database and 20 queries
SIDES = ["database"] * 60 + ["query"] * 20


@pytest.fixture
def vectors(root: Root) -> np.ndarray:
    """The vectors of 90 contents, all in one embedding store."""
    vectors = make_unit_vectors(np.random.default_rng(3), 90)
    add_vectors(EmbeddingStore(root, "f"), list(range(90)), [f"c{content:02d}" for content in range(90)], vectors)
    return vectors


def make_request(root: Root, vectors: np.ndarray, contents: list[int], searcher: Searcher | None = None) -> TruthRequest:
    """Item n + 1 has the content contents[n]; there may be fewer items than on another night."""
    digest = "-".join(map(str, contents))
    path = root.path / f"items-{json_digest(digest)[:8]}.parquet"
    columns = {"item_id": range(1, len(contents) + 1), "content_digest": [f"c{content:02d}" for content in contents], "side": SIDES}
    pl.DataFrame(columns).with_columns(leak=False).write_parquet(path)
    ref = root.make_ref(path)
    parts = (root.make_ref(part) for part in EmbeddingStore(root, "f").list_parts())
    embeddings = EmbeddingSet(
        digest=digest, files=(ref, *parts), split="s", modality="text", fingerprint="f", encoder={}, dim=vectors.shape[1],
        database=60, query=20, encoded=0, reused=80, rejected=0, truncated=0, items=ref, rejects=None,
    )  # fmt: skip
    return TruthRequest(embeddings, embeddings, np.arange(61, 81), vectors[contents[60:]], K, METRIC, searcher=searcher)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries were compared with the whole embedding store, search by search."""
    return count_searched(monkeypatch, "_search_all")


def change(contents: list[int], *items: int, first: int = 80) -> list[int]:
    """Give items contents that no item had."""
    changed = list(contents)
    for content, item in enumerate(items, first):
        changed[item] = content
    return changed


def assert_as_from_nothing(root: Root, folder: Path, request: TruthRequest) -> None:
    """Same ids, and scores that differ by rounding at most."""
    found, expected = (compute_ground_truth(root, each, request) for each in (folder, folder / request.key[:8]))
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_a_second_night_searches_for_new_queries_only(root: Root, vectors: np.ndarray, searched: list[int]) -> None:
    """Five items and two queries have another content on the second night, four other items on the third."""
    second = change(ITEMS, 0, 7, 20, 33, 59, 60, 79)
    third = change(second, 1, 2, first=87)
    for contents in (ITEMS, second, third):
        assert_as_from_nothing(root, root.path / "nights", make_request(root, vectors, contents))
    assert searched == [20, 20, 2, 20, 20]  # each night, and then from nothing; no query is new on the third night


def test_a_query_whose_neighbors_are_gone_is_searched_for(
    root: Root, vectors: np.ndarray, searched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first 12 of the 15 ranks that are kept are no items any more: only three are known, of five."""
    monkeypatch.setattr(ground_truth, "MAX_CHANGED_SHARE", 1)
    request = make_request(root, vectors, ITEMS)
    compute_ground_truth(root, root.path / "nights", request)
    gone = np.argsort(-(vectors[:60] @ vectors[65]))[:12].tolist()
    contents = [ITEMS[item] if item not in gone else 89 for item in range(80)]
    contents[gone[0]] = 88
    assert_as_from_nothing(root, root.path / "nights", make_request(root, vectors, contents))
    assert searched[0] == 20
    assert 1 <= searched[1] < 20


def test_new_queries_are_compared_with_the_stored_vectors_of_the_index(root: Root, vectors: np.ndarray, searched: list[int]) -> None:
    """Exact vectors that the index re-ranks with spare a pass over the embedding store; half precision does not."""
    compute_ground_truth(root, root.path / "nights", make_request(root, vectors, ITEMS))
    second = change(ITEMS, 60)
    ids = np.arange(1, 61)
    exact, half = (make_searcher(ids, vectors[:60].astype(dtype)) for dtype in (np.float32, np.float16))
    assert_as_from_nothing(root, root.path / "nights", make_request(root, vectors, second, exact))
    assert searched == [20, 20]
    compute_ground_truth(root, root.path / "nights", make_request(root, vectors, change(ITEMS, 61), half))
    assert searched == [20, 20, 1]


def make_searcher(ids: np.ndarray, rows: np.ndarray) -> Searcher:
    index = faiss.index_factory(rows.shape[1], "IDMap,Flat", METRIC)
    index.add_with_ids(rows.astype(np.float32), ids)
    return Searcher([index], "cosine", stores=[make_store(ids, rows, "cosine")])


@pytest.mark.parametrize("damage", ["truth", "items", "too many changes"])
def test_what_cannot_be_trusted_is_searched_again(root: Root, vectors: np.ndarray, searched: list[int], damage: str) -> None:
    """A damaged file, a table of items that is gone, and a night on which most items changed."""
    request = make_request(root, vectors, ITEMS)
    path = root.file(compute_ground_truth(root, root.path / "nights", request).file)
    contents = change(ITEMS, 3)
    if damage == "truth":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "items":
        root.file(request.indexed.items).unlink()
    else:
        contents = [*ITEMS[30:60], *ITEMS[:30], *ITEMS[60:]]
    assert_as_from_nothing(root, root.path / "nights", make_request(root, vectors, contents))
    assert searched == [20, 20, 20]
