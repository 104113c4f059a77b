"""Projections of a sample, read from an embedding store."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.labels import ItemLabels
from indexmill.tasks.evaluation.projection import project_embedding_space
from tests.storage.embedding_parts import add_vectors


@pytest.fixture
def stored_embeddings(tmp_path: Path) -> tuple[Root, EmbeddingSet]:
    """40 items of label a, 8 of label b, 2 without a label, and 10 queries; vectors of two clusters."""
    root = Root(tmp_path / "root")
    ids = list(range(1, 61))
    labels = ["a"] * 40 + ["b"] * 8 + [None] * 2 + ["a"] * 10
    digests = [f"d{item:03d}" for item in ids]
    random = np.random.default_rng(0)
    vectors = random.standard_normal((60, 8)) * 0.1 + np.eye(8)[[1 if label == "b" else 0 for label in labels]]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    store = EmbeddingStore(root, "f")
    add_vectors(store, ids, digests, vectors)
    items = root.path / "items.parquet"
    sides = ["database"] * 50 + ["query"] * 10
    pl.DataFrame({"item_id": ids, "label": labels, "content_digest": digests, "side": sides, "leak": [False] * 60}).write_parquet(items)
    ref = root.make_ref(items)
    embeddings = EmbeddingSet(
        digest="d",
        files=(ref, *(root.make_ref(path) for path in store.list_parts())),
        split="s",
        modality="text",
        fingerprint="f",
        encoder={},
        dim=8,
        database=50,
        query=10,
        encoded=60,
        reused=0,
        rejected=0,
        truncated=0,
        items=ref,
        rejects=None,
    )
    return root, embeddings


def test_the_sample_is_balanced_by_label_and_the_projection_is_reproducible(
    stored_embeddings: tuple[Root, EmbeddingSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 of 50 items: both unlabeled ones, 8 of b, 8 of a. With two clusters, purity and silhouette are high. All of it is JSON."""
    root, embeddings = stored_embeddings
    monkeypatch.setattr("indexmill.tasks.evaluation.projection.SAMPLE_SIZE", 18)
    labels = ItemLabels(root, embeddings)
    projection = project_embedding_space(root, embeddings, labels, seed=1, seconds=60)
    assert Counter(projection["labels"]) == {None: 2, "a": 8, "b": 8}
    assert max(projection["items"]) <= 50
    assert len(projection["pca"]["explained"]) == 8
    assert sum(projection["pca"]["explained"]) == pytest.approx(1)
    assert [(len(layout["points"]), len(layout["points"][0])) for layout in projection["tsne"]] == [(18, 2), (18, 3)]
    assert projection["knn_purity_at_10"] > 0.6  # at most 7 of an item's 10 nearest neighbors can have its label
    assert projection["silhouette"] > 0.5
    repeated = project_embedding_space(root, embeddings, labels, seed=1, seconds=60)
    assert json.dumps({**repeated, "tsne_seconds": 0}) == json.dumps({**projection, "tsne_seconds": 0})


def test_layouts_stay_while_the_sample_hardly_changes(
    stored_embeddings: tuple[Root, EmbeddingSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 50 contents is another: its point is placed and said to be; all others stay. With many others, all is laid out again."""
    root, embeddings = stored_embeddings
    labels = ItemLabels(root, embeddings)

    def project(seed: int, earlier: dict[str, object] | None = None) -> dict[str, Any]:
        return project_embedding_space(root, embeddings, labels, seed=seed, seconds=60, earlier=earlier)

    first = project(1)
    assert project(1, first) == {**first, "tsne_seconds": [0.0, 0.0]}
    assert project(2, first)["tsne"] == project(2)["tsne"]
    earlier = {**first, "contents": ["gone", *first["contents"][1:]]}
    for layout, before in zip(project(1, earlier)["tsne"], first["tsne"], strict=True):
        assert layout["placed"] == [0]
        assert layout["points"][1:] == before["points"][1:]
        assert layout["points"][0] != before["points"][0]
    again = project(1, project(1, earlier))  # a point that was placed stays so, and stays marked
    assert [layout["placed"] for layout in again["tsne"]] == [[0], [0]]
    changed = {**first, "contents": [f"gone {row}" if row < 6 else content for row, content in enumerate(first["contents"])]}
    assert project(1, changed)["tsne"] == first["tsne"]
