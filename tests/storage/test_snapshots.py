"""Snapshots are complete, the pointer is atomic, and retention keeps what is needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from indexmill.storage import catalog
from indexmill.storage import root as storage_root
from indexmill.storage.digests import file_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.records import Record
from indexmill.storage.retention import apply_retention, hold_snapshot, list_pinned, pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.storage.snapshot_files import publish


def test_ids_count_up_and_the_newest_or_live_content_keeps_its_id(root: Root) -> None:
    """A repeated build does not make a second snapshot; an older content that comes back gets a new one."""
    first = publish(root, "a" * 64)
    assert first == "00001-aaaaaaaaaa"
    assert publish(root, "b" * 64) == "00002-bbbbbbbbbb"
    snapshots = Snapshots(root, "name")
    assert snapshots.assign_id("b" * 64) == "00002-bbbbbbbbbb"
    assert snapshots.assign_id("a" * 64) == "00003-aaaaaaaaaa"
    assert snapshots.assign_id("c" * 64) == "00003-cccccccccc"
    snapshots.withdraw("00002-bbbbbbbbbb")
    snapshots.publish(first)
    assert snapshots.assign_id("a" * 64) == first
    assert snapshots.assign_id("b" * 64) == "00002-bbbbbbbbbb"
    assert [snapshots.is_withdrawn(snapshot_id) for snapshot_id in snapshots.list_ids()] == [False, True]
    snapshots.publish("00002-bbbbbbbbbb")
    assert not snapshots.is_withdrawn("00002-bbbbbbbbbb")


def test_a_folder_without_a_manifest_is_not_a_snapshot(root: Root) -> None:
    """The manifest is written last, so without it other files may be missing too."""
    snapshot_id = publish(root, "a" * 64)
    snapshots = Snapshots(root, "name")
    (snapshots.get_path(snapshot_id) / "manifest.json").unlink()
    assert snapshots.list_ids() == []
    assert snapshots.get_live_id() is None
    with pytest.raises(InputError, match="has not been published"):
        snapshots.read_manifest()


def test_verification_names_the_file_that_differs(root: Root) -> None:
    """A changed byte is found even when the size is the same."""
    snapshots = Snapshots(root, "name")
    manifest = snapshots.read_manifest(publish(root, "a" * 64))
    snapshots.verify(manifest)
    (snapshots.get_path(manifest.snapshot_id) / "data.bin").write_text("dat_")
    with pytest.raises(DamagedFile, match=r"data\.bin"):
        snapshots.verify(manifest)


def test_retention_keeps_the_newest_and_the_live_snapshot_with_their_pool_files(root: Root) -> None:
    """After a rollback the live snapshot may be an old one; it and its pool file stay."""
    ids = [publish(root, letter * 64, letter) for letter in "abcd"]
    snapshots = Snapshots(root, "name")
    snapshots.publish(ids[0])
    assert apply_retention(snapshots, keep=1) == ids[1:3]
    assert snapshots.list_ids() == [ids[0], ids[3]]
    assert [path.stem[0] for path in sorted((root.index("name") / "shards").iterdir())] == ["a", "d"]
    snapshots.verify(snapshots.read_manifest())


def test_a_pinned_snapshot_stays_until_it_is_unpinned(root: Root) -> None:
    """Its age does not matter. Pinning a missing snapshot is an error."""
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


def test_a_snapshot_that_a_reader_holds_stays_until_it_is_released(root: Root) -> None:
    """The reader locks the manifest. A removed snapshot cannot be held."""
    ids = [publish(root, letter * 64, letter) for letter in "ab"]
    snapshots = Snapshots(root, "name")
    with hold_snapshot(snapshots, ids[0]) as manifest:
        assert manifest.snapshot_id == ids[0]
        assert apply_retention(snapshots, keep=1) == []
        assert snapshots.list_ids() == ids
    assert apply_retention(snapshots, keep=1) == [ids[0]]
    with pytest.raises(InputError, match="has no snapshot"), hold_snapshot(snapshots, ids[0]):
        pass


def test_young_snapshots_stay_and_refused_ones_do_not_count(root: Root) -> None:
    """Of four published snapshots the live and the young one stay, and of two refused ones the newer."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    old, young = publish(root, "a" * 64, "a"), publish(root, "b" * 64, "b", created_at=now)
    middle, live = publish(root, "c" * 64, "c"), publish(root, "d" * 64, "d")
    first, second = publish(root, "e" * 64, "e", refused=True), publish(root, "f" * 64, "f", refused=True)
    snapshots = Snapshots(root, "name")
    assert snapshots.get_live_id() == live
    assert apply_retention(snapshots, keep=1, days=1) == [old, middle, first]
    assert snapshots.list_ids() == [young, live, second]


def test_a_manifest_of_a_newer_schema_is_refused_by_its_number(root: Root) -> None:
    """A snapshot of a newer Indexmill is rejected by its number."""
    snapshots = Snapshots(root, "name")
    path = snapshots.get_path(publish(root, "a" * 64)) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 3}))
    with pytest.raises(InputError, match="schema_version 3"):
        snapshots.read_manifest()


def test_the_catalog_is_derived_from_the_manifests(root: Root) -> None:
    """Overwritten with garbage, it is rebuilt with the same rows."""
    for letter in "ab":
        publish(root, letter * 64)
    assert catalog.rebuild(root) == 2
    rows = catalog.list_builds(root)
    assert [(row["snapshot_id"], row["live"], row["parent"]) for row in rows] == [
        ("00001-aaaaaaaaaa", False, None),
        ("00002-bbbbbbbbbb", True, "00001-aaaaaaaaaa"),
    ]
    root.catalog.write_bytes(b"garbage")
    catalog.rebuild(root)
    assert catalog.list_builds(root) == rows


def test_an_unknown_index_lists_the_published_ones(root: Root) -> None:
    """The next step lists them in full, and never proposes to build a name that may not be a pipeline."""
    with pytest.raises(InputError, match="has not been published") as empty:
        Snapshots(root, "nmae").read_manifest()
    assert (empty.value.got, "--root" in empty.value.next_step) == ("published indexes: none", True)
    publish(root, "a" * 64)
    (root.index("unfinished") / "shards").mkdir(parents=True)
    with pytest.raises(InputError, match="index nmae has not been published") as unknown:
        Snapshots(root, "nmae").read_manifest()
    assert unknown.value.got == "published indexes: name"
    assert f"indexmill catalog --root {root.path}" in unknown.value.next_step
    assert "build" not in unknown.value.next_step.replace("builds", "")


def test_an_unknown_snapshot_lists_those_of_its_index(root: Root) -> None:
    """They are listed oldest first."""
    ids = [publish(root, letter * 64) for letter in "ab"]
    with pytest.raises(InputError, match="index name has no snapshot 00009-x") as unknown:
        Snapshots(root, "name").read_manifest("00009-x")
    assert unknown.value.got == f"snapshots: {', '.join(ids)}"
    assert unknown.value.next_step == f"run `indexmill snapshots name --root {root}` to list them"


def test_verifying_reads_each_file_once(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build verifies the whole live snapshot first, and every shard that it reuses."""
    publish(root, "a" * 64)
    manifest = Snapshots(root, "name").read_manifest()
    read = list[Path]()

    def count_and_digest(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(storage_root, "file_digest", count_and_digest)
    Snapshots(root, "name").verify(manifest)
    assert len(read) == len(manifest.files) == 1
    (ref,) = manifest.files
    pooled = ref.model_copy(update={"path": manifest.sources[ref.path]})
    root.verify_file(pooled)
    assert len(read) == 2
    assert root.find_invalid_files(Record(digest="d", files=(pooled,)), thorough=True) == []
    assert len(read) == 3
