"""Collecting garbage: vectors that a kept snapshot uses are never touched, and what is said is what is done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_snapshots import publish

from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import BuildInProgress
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.locks import lease
from indexmill.storage.retention import pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.storage.embedding_parts import add_vectors

LONG_AGO = 1_000_000_000


def with_items(root: Root, snapshot_id: str, contents: set[int]) -> None:
    """items.parquet of a snapshot: these contents."""
    path = Snapshots(root, "name").get_path(snapshot_id) / "items.parquet"
    pl.DataFrame({"content_digest": [f"c{one}" for one in sorted(contents)]}, schema={"content_digest": pl.String}).write_parquet(path)


def encoded(root: Root, parts: list[list[int]], fingerprint: str = "f") -> EmbeddingStore:
    """Parts of contents whose vectors are their numbers, written long ago."""
    store = EmbeddingStore(root, fingerprint)
    for contents in parts:
        add_vectors(store, contents, [f"c{one}" for one in contents], np.array([[one, -one] for one in contents], np.float32))
    for path in store.list_parts():
        os.utime(path, (LONG_AGO, LONG_AGO))
    return store


def held(store: EmbeddingStore) -> dict[str, list[float]]:
    rows = [row for path in store.list_parts() for row in pq.read_table(path).to_pylist()]
    assert len({row["content_digest"] for row in rows}) == len(rows)
    return {row["content_digest"]: row["embedding"] for row in rows}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(0, 11)), min_size=2, max_size=4), st.booleans())
def test_the_vectors_that_stay_are_those_of_the_snapshots_that_stay(
    tmp_path_factory: pytest.TempPathFactory, kept: list[set[int]], pinned: bool
) -> None:
    """Snapshots over twelve contents in three parts: what the live and the pinned one use stays; a dry run says so and does nothing."""
    root = Root(tmp_path_factory.mktemp("root"))
    ids = [publish(root, f"{number}" * 64, f"{number}") for number in range(len(kept))]
    for snapshot_id, contents in zip(ids, kept, strict=True):
        with_items(root, snapshot_id, contents)
    if pinned:
        pin(Snapshots(root, "name"), ids[0])
    store = encoded(root, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    before = held(store)
    planned = collect_garbage(root, dry_run=True)
    assert held(store) == before
    assert Snapshots(root, "name").list_ids() == ids
    assert collect_garbage(root) == planned
    wanted = kept[-1] | (kept[0] if pinned else set())
    assert held(store) == {f"c{one}": [one, -one] for one in sorted(wanted)}
    assert Snapshots(root, "name").list_ids() == ([ids[0], ids[-1]] if pinned and len(ids) > 1 else [ids[-1]])
    assert [one.kind for one in collect_garbage(root)] == []
    root.close()


def test_an_interrupted_builds_young_parts_stay_and_an_unused_encoders_go(root: Root) -> None:
    """A part of this minute is not touched, though nothing uses it; the store of an encoder that no snapshot names is emptied."""
    with_items(root, publish(root, "a" * 64), {1})
    store, unused = encoded(root, [[1, 2]]), encoded(root, [[1]], "other")
    add_vectors(store, [3], ["c3"], np.zeros((1, 2), np.float32))
    found = collect_garbage(root)
    assert [(one.kind, one.where, one.rows) for one in found] == [
        ("vectors", "embeddings/f/part-00000.parquet", 1), ("vectors", "embeddings/other/part-00000.parquet", 1),
    ]  # fmt: skip
    assert set(held(store)) == {"c1", "c3"}
    assert unused.list_parts() == []


def test_old_folders_of_a_stage_go_and_with_them_what_rests_on_them(root: Root) -> None:
    """Three folders of the split: the oldest goes; the record of the stage that named it goes too, another one stays."""
    for number in range(3):
        folder = root.path / "datasets" / "d" / "split" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "items.parquet").write_bytes(b"x" * 10)
        os.utime(folder, (LONG_AGO + number, LONG_AGO + number))
    root.cache.mkdir()
    for number in (0, 2):
        record = {"__class__": "R", "data": {"files": [{"path": f"datasets/d/split/{number}/items.parquet", "size": 10, "sha256": None}]}}
        (root.cache / f"split-{number}").write_text(json.dumps({"metadata": {}, "result": json.dumps(record)}))
    (root.cache / "foreign").write_text("not ours")
    found = [(one.kind, one.where) for one in collect_garbage(root)]
    assert found == [("dataset", "datasets/d/split/0"), ("remembered stage", "cache/split-0")]
    assert sorted(path.name for path in root.cache.iterdir()) == ["foreign", "split-2"]


def test_nobody_collects_while_somebody_builds(root: Root) -> None:
    """Builds share the root; who wants it alone is told that they are there."""
    building = (root.hold_shared(), lease(root.path / "lease", holder="another", wait=True, shared=True))
    with building[0], building[1], pytest.raises(BuildInProgress, match="a build is running"), root.hold_exclusive("a collector"):
        pass
    with root.hold_exclusive("a collector"):
        pass


def test_a_killed_rewrite_leaves_the_part_as_it_was(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new part takes the old one's name in one step, or not at all."""
    with_items(root, publish(root, "a" * 64), {1})
    store = encoded(root, [[1, 2]])

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(root)
    assert set(held(store)) == {"c1", "c2"}
