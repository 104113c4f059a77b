"""Items asked for by their own vectors: an index that answers wrongly is not published."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.canary import CanaryResult, check_canaries, count_found
from indexmill.tasks.indexing.searcher import Searcher
from tests.evaluation.small_index import DIM, SmallIndex

OPTIONS = {"seed": 0, "factory": "HNSW8", "metric": "cosine"}


def test_every_item_is_found_in_a_right_index(root: Root) -> None:
    """60 database items are fewer than the sample, so all are asked for."""
    small = SmallIndex(root)
    assert check_canaries(root, small.embeddings, small.searcher, **OPTIONS) == CanaryResult(60, 60)  # type: ignore[arg-type]


def test_distances_that_are_read_as_similarities_stop_the_build(root: Root) -> None:
    """An L2 index behind a searcher for cosine returns the farthest candidates first."""
    small = SmallIndex(root)
    shards: list[faiss.Index] = []
    for number in range(3):
        index = faiss.IndexIDMap2(faiss.IndexFlatL2(DIM))
        index.add_with_ids(small.vectors[:60][number::3], np.arange(1, 61)[number::3])
        shards.append(index)
    with pytest.raises(InputError, match="does not find its own items") as caught:
        check_canaries(root, small.embeddings, Searcher(shards, "cosine"), **OPTIONS)  # type: ignore[arg-type]
    assert "index.factory = HNSW8" in str(caught.value)


def test_the_query_side_is_asked_too(root: Root) -> None:
    """Its 20 items in shards of their own; with their ids mixed up, none of them is found."""
    small = SmallIndex(root)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(DIM))
    index.add_with_ids(small.vectors[60:], np.arange(61, 81))
    searcher = Searcher([index], "cosine")
    assert check_canaries(root, small.embeddings, searcher, **OPTIONS, side="query") == CanaryResult(20, 20)  # type: ignore[arg-type]
    wrong = faiss.IndexIDMap2(faiss.IndexFlatIP(DIM))
    wrong.add_with_ids(-small.vectors[60:], np.arange(61, 81))
    with pytest.raises(InputError, match="the query side"):
        check_canaries(root, small.embeddings, Searcher([wrong], "cosine"), **OPTIONS, side="query")  # type: ignore[arg-type]


def test_an_item_that_is_exactly_as_near_counts_as_the_answer() -> None:
    """Copies of a text have one vector. Empty ranks are no answer."""
    retrieved = np.array([[8, 5], [6, -1], [-1, -1], [3, 4]])
    scores = np.array([[1, 1, 0.4], [1, 0.9, 0.4], [1, -np.inf, -np.inf], [1, 0.9999999, 0.99]], np.float32)
    ids = np.array([[7, 8, 9], [5, 6, 7], [2, -1, -1], [2, 3, 4]])
    assert count_found(retrieved, scores, ids) == 2
