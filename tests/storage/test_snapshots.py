"""Snapshots are whole, the pointer is atomic, retention keeps what is needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from indexmill.storage import catalog
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.index_records import SearchParams, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef
from indexmill.storage.retention import apply_retention, hold_snapshot, list_pinned, pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

UNTUNED = TunedIndex(
    digest="t", files=(), shards="s", params=SearchParams(), target=None, met=None, recall=None, recall_bound=None, cpu_ms_per_query=None,
    latency_met=None, reason="by default",
)  # fmt: skip


def publish(root: Root, content: str, text: str = "data", *, refused: bool = False, created_at: str = "2026-01-01T00:00:00+00:00") -> str:
    """A snapshot of one file, published unless it was refused."""
    snapshots = Snapshots(root, "name")
    pooled = root.index("name") / "shards" / f"{content}.faiss"
    root.scratch.write_text(pooled, text)
    ref = root.make_ref(pooled)
    manifest = Manifest(
        name="name", snapshot_id=snapshots.assign_id(content), parent=snapshots.get_live_id(), created_at=created_at,
        content=content, config={"publish": {"keep": 1}}, modality="text", image_root=None, index_modality="text", embedding_stores={"f": "items.parquet"},
        truncated=0, search=UNTUNED,
        fingerprint="f", encoder={}, datasets={},
        factory="Flat", metric="cosine", dim=2, items=1,
        database=1, query=0, rejected=0, split={}, metrics={"map": 0.5}, timings={},
        shards=(), pool_files=(ref.path,), verdict="refused" if refused else "published", failed_rules=(), force_reason=None, versions={},
        threads=1, files=(FileRef(path="data.bin", size=ref.size, sha256=ref.sha256),),
    )  # fmt: skip
    snapshots.assemble(manifest, {"data.bin": ref})
    if not refused:
        snapshots.publish(manifest.snapshot_id)
    return manifest.snapshot_id


def test_ids_count_up_and_the_same_content_keeps_its_id(root: Root) -> None:
    """A repeated night does not make a second snapshot of the same."""
    first = publish(root, "a" * 64)
    assert first == "00001-aaaaaaaaaa"
    assert publish(root, "b" * 64) == "00002-bbbbbbbbbb"
    assert Snapshots(root, "name").assign_id("a" * 64) == first
    assert Snapshots(root, "name").assign_id("c" * 64) == "00003-cccccccccc"


def test_a_folder_without_a_manifest_is_no_snapshot(root: Root) -> None:
    """The manifest is written last, so its absence means that the rest may be missing too."""
    snapshot_id = publish(root, "a" * 64)
    snapshots = Snapshots(root, "name")
    (snapshots.get_path(snapshot_id) / "manifest.json").unlink()
    assert snapshots.list_ids() == []
    assert snapshots.get_live_id() is None
    with pytest.raises(InputError, match="has not been published"):
        snapshots.read_manifest()


def test_verification_names_the_file_that_differs(root: Root) -> None:
    """One changed byte of the same length is found."""
    snapshots = Snapshots(root, "name")
    manifest = snapshots.read_manifest(publish(root, "a" * 64))
    snapshots.verify(manifest)
    (snapshots.get_path(manifest.snapshot_id) / "data.bin").write_text("dat_")
    with pytest.raises(DamagedFile, match=r"data\.bin"):
        snapshots.verify(manifest)


def test_retention_keeps_the_newest_the_live_one_and_what_they_were_made_from(root: Root) -> None:
    """After a rollback the live snapshot may be an old one; it and its pooled file stay."""
    ids = [publish(root, letter * 64, letter) for letter in "abcd"]
    snapshots = Snapshots(root, "name")
    snapshots.publish(ids[0])
    assert apply_retention(snapshots, keep=1) == ids[1:3]
    assert snapshots.list_ids() == [ids[0], ids[3]]
    assert [path.stem[0] for path in sorted((root.index("name") / "shards").iterdir())] == ["a", "d"]
    snapshots.verify(snapshots.read_manifest())


def test_a_pinned_snapshot_stays_until_it_is_unpinned(root: Root) -> None:
    """Whatever its age; a pin of a snapshot that is not there is refused."""
    ids = [publish(root, letter * 64, letter) for letter in "abc"]
    snapshots = Snapshots(root, "name")
    pin(snapshots, ids[0])
    with pytest.raises(InputError, match="has no snapshot 9"):
        pin(snapshots, "9")
    assert list_pinned(snapshots) == {ids[0]}
    assert apply_retention(snapshots, keep=1) == [ids[1]]
    pin(snapshots, ids[0], keep=False)
    assert apply_retention(snapshots, keep=1) == [ids[0]]
    assert list_pinned(snapshots) == set()


def test_a_snapshot_that_is_read_stays_until_it_is_let_go(root: Root) -> None:
    """The reader holds the manifest; one that is gone cannot be held."""
    ids = [publish(root, letter * 64, letter) for letter in "ab"]
    snapshots = Snapshots(root, "name")
    with hold_snapshot(snapshots, ids[0]) as manifest:
        assert manifest.snapshot_id == ids[0]
        assert apply_retention(snapshots, keep=1) == []
        assert snapshots.list_ids() == ids
    assert apply_retention(snapshots, keep=1) == [ids[0]]
    with pytest.raises(InputError, match="has no snapshot"), hold_snapshot(snapshots, ids[0]):
        pass


def test_young_snapshots_stay_and_refused_ones_take_no_place(root: Root) -> None:
    """Of four published ones the newest and that of this minute stay; of two refused ones the newer."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    old, young = publish(root, "a" * 64, "a"), publish(root, "b" * 64, "b", created_at=now)
    middle, live = publish(root, "c" * 64, "c"), publish(root, "d" * 64, "d")
    first, second = publish(root, "e" * 64, "e", refused=True), publish(root, "f" * 64, "f", refused=True)
    snapshots = Snapshots(root, "name")
    assert snapshots.get_live_id() == live
    assert apply_retention(snapshots, keep=1, days=1) == [old, middle, first]
    assert snapshots.list_ids() == [young, live, second]


def test_a_manifest_of_another_schema_is_refused_by_number(root: Root) -> None:
    """A newer Indexmill's snapshot is not guessed at."""
    snapshots = Snapshots(root, "name")
    path = snapshots.get_path(publish(root, "a" * 64)) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 3}))
    with pytest.raises(InputError, match="schema_version 3"):
        snapshots.read_manifest()


def test_the_catalog_is_made_from_the_manifests(root: Root) -> None:
    """Deleted or overwritten with rubbish, it comes back the same."""
    for letter in "ab":
        publish(root, letter * 64)
    assert catalog.rebuild(root) == 2
    rows = catalog.list_builds(root)
    assert [(row["snapshot_id"], row["live"], row["parent"]) for row in rows] == [
        ("00001-aaaaaaaaaa", False, None), ("00002-bbbbbbbbbb", True, "00001-aaaaaaaaaa"),
    ]  # fmt: skip
    root.catalog.write_bytes(b"rubbish")
    catalog.rebuild(root)
    assert catalog.list_builds(root) == rows
