"""Garbage collection never touches vectors that a kept snapshot uses, and its dry run lists exactly what it removes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import BuildInProgress
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.locks import lease
from indexmill.storage.retention import pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.examples import count_examples
from tests.storage.embedding_parts import add_vectors
from tests.storage.snapshot_files import publish

LONG_AGO = 1_000_000_000


def write_items(root: Root, snapshot_id: str, contents: set[int]) -> None:
    """Write items.parquet of a snapshot with these contents."""
    path = Snapshots(root, "name").get_path(snapshot_id) / "items.parquet"
    pl.DataFrame({"content_digest": [f"c{content}" for content in sorted(contents)]}, schema={"content_digest": pl.String}).write_parquet(
        path
    )


def write_parts(root: Root, parts: list[list[int]], fingerprint: str = "f") -> EmbeddingStore:
    """Write old parts. The vector of content n is (n, -n)."""
    store = EmbeddingStore(root, fingerprint)
    for contents in parts:
        add_vectors(
            store, contents, [f"c{content}" for content in contents], np.array([[content, -content] for content in contents], np.float32)
        )
    for path in store.list_parts():
        os.utime(path, (LONG_AGO, LONG_AGO))
    return store


def read_vectors(store: EmbeddingStore) -> dict[str, list[float]]:
    rows = [row for path in store.list_parts() for row in pq.read_table(path).to_pylist()]
    assert len({row["content_digest"] for row in rows}) == len(rows)
    return {row["content_digest"]: row["embedding"] for row in rows}


@settings(max_examples=count_examples(6), deadline=None)
@example([{0, 5}, {1}, {2, 5, 9}], True)
@example([{0, 1}, set()], False)
@given(st.lists(st.sets(st.integers(0, 11)), min_size=2, max_size=4), st.booleans())
def test_exactly_the_vectors_of_kept_snapshots_stay(tmp_path_factory: pytest.TempPathFactory, kept: list[set[int]], pinned: bool) -> None:
    """Twelve contents in three parts: those of the live and the pinned snapshot stay, and a dry run changes nothing."""
    root = Root(tmp_path_factory.mktemp("root"))
    ids = [publish(root, f"{number}" * 64, f"{number}") for number in range(len(kept))]
    for snapshot_id, contents in zip(ids, kept, strict=True):
        write_items(root, snapshot_id, contents)
    if pinned:
        pin(Snapshots(root, "name"), ids[0])
    store = write_parts(root, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    before = read_vectors(store)
    planned = collect_garbage(root, dry_run=True)
    assert read_vectors(store) == before
    assert Snapshots(root, "name").list_ids() == ids
    assert collect_garbage(root) == planned
    needed = kept[-1] | (kept[0] if pinned else set())
    assert read_vectors(store) == {f"c{content}": [content, -content] for content in sorted(needed)}
    assert Snapshots(root, "name").list_ids() == ([ids[0], ids[-1]] if pinned and len(ids) > 1 else [ids[-1]])
    assert collect_garbage(root) == []
    root.close()


def test_young_parts_stay_and_those_of_an_unused_encoder_go(root: Root) -> None:
    """A young part may belong to an interrupted build. The store of an encoder that no snapshot names is emptied."""
    write_items(root, publish(root, "a" * 64), {1})
    store, unused = write_parts(root, [[1, 2]]), write_parts(root, [[1]], "other")
    add_vectors(store, [3], ["c3"], np.zeros((1, 2), np.float32))
    garbage = collect_garbage(root)
    assert [(entry.kind, entry.path, entry.rows) for entry in garbage] == [
        ("vectors", "embeddings/f/part-00000.parquet", 1),
        ("vectors", "embeddings/other/part-00000.parquet", 1),
    ]
    assert set(read_vectors(store)) == {"c1", "c3"}
    assert unused.list_parts() == []


def test_old_folders_of_a_stage_go_with_the_cached_stages_that_need_them(root: Root) -> None:
    """Of three split folders the oldest goes, and with it the cached stage that names it."""
    for number in range(3):
        folder = root.path / "datasets" / "d" / "split" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "items.parquet").write_bytes(b"x" * 10)
        os.utime(folder / "items.parquet", (LONG_AGO + number, LONG_AGO + number))
    root.cache.mkdir()
    for number in (0, 2):
        record = {"__class__": "R", "data": {"files": [{"path": f"datasets/d/split/{number}/items.parquet", "size": 10, "sha256": None}]}}
        (root.cache / f"split-{number}").write_text(json.dumps({"metadata": {}, "result": json.dumps(record)}))
    (root.cache / "foreign").write_text("not ours")
    garbage = [(entry.kind, entry.path) for entry in collect_garbage(root)]
    assert garbage == [("dataset", "datasets/d/split/0"), ("cached stage", "cache/split-0")]
    assert sorted(path.name for path in root.cache.iterdir()) == ["foreign", "split-2"]


def test_no_garbage_collection_while_a_build_runs(root: Root) -> None:
    """Builds share the root; a process that wants it alone gets an error."""
    builds = (root.hold_shared(), lease(root.path / "lease", holder="another", wait=True, shared=True))
    with builds[0], builds[1], pytest.raises(BuildInProgress, match="a build is running"), root.hold_exclusive("a collector"):
        pass
    with root.hold_exclusive("a collector"):
        pass


def test_a_killed_rewrite_leaves_the_part_as_it_was(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewrite replaces the part in one step or not at all."""
    write_items(root, publish(root, "a" * 64), {1})
    store = write_parts(root, [[1, 2]])

    def interrupt(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(root)
    assert set(read_vectors(store)) == {"c1", "c2"}


def test_what_a_killed_driver_left_for_its_workers_goes_after_a_day(root: Root, open_machine: Callable[..., Root]) -> None:
    """In a folder and in a store, which has a clock of its own. Job files written lately stay: workers may outlive their driver."""
    for where in (root, open_machine("first")):
        for key in ("old", "young"):
            where.scratch.write_text(where.jobs(key) / "chunk-00000.parquet", "plan")
        assert collect_garbage(where) == []
        if where is root:
            os.utime(root.jobs("old") / "chunk-00000.parquet", (LONG_AGO, LONG_AGO))
        else:
            files = where.store._objects  # type: ignore[attr-defined]
            files["jobs/old/chunk-00000.parquet"] = dataclasses.replace(files["jobs/old/chunk-00000.parquet"], modified=LONG_AGO)
        (found,) = collect_garbage(where, dry_run=True)
        assert (found.kind, found.path, found.bytes) == ("jobs", "jobs/old", 4)
        assert where.exists(where.jobs("old") / "chunk-00000.parquet")
        assert collect_garbage(where) == [found]
        assert where.list_folders(where.path / "jobs") == ["young"]
        assert not where.jobs("old").exists()
    where.store.refresh(where.path)
    assert where.list_folders(where.path / "jobs") == ["young"], "the object itself is gone"
