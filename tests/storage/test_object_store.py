"""A root in an object store, seen by two machines: files, copies, leases, publishing, readers and garbage collection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from indexmill.storage import object_leases, object_store, retention
from indexmill.storage.copying import copy_root, list_keys
from indexmill.storage.errors import BuildInProgress, DamagedFile, InputError, LeaseLost, StoreUnreachable
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.object_leases import get_lease_seconds
from indexmill.storage.retention import apply_retention, hold_snapshot, pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.storage.object_server import SECRET, ObjectServer
from tests.storage.snapshot_files import publish

OpenMachine = Callable[..., Root]


@pytest.fixture
def holder(bucket_url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease of the index and writes under it."""
    command = [sys.executable, "-m", "tests.storage.lease_holder", bucket_url, "300"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_what_one_machine_commits_another_reads(open_machine: OpenMachine) -> None:
    """The second machine sees files that were committed before it opened the root, and later ones after a refresh."""
    first = open_machine("first")
    first.scratch.write_text(first.index("name") / "shards" / "a.txt", "one")
    second = open_machine("second")
    path = second.index("name") / "shards" / "a.txt"
    assert not path.exists()
    assert second.fetch(path).read_text() == "one"
    first.scratch.write_text(first.index("name") / "shards" / "b.txt", "two")
    assert [found.name for found in second.list_files(path.parent, "*.txt")] == ["a.txt"]
    second.store.refresh(second.index("name"))
    assert [found.name for found in second.list_files(path.parent, "*.txt")] == ["a.txt", "b.txt"]
    assert second.list_indexes() == ["name"]
    first.remove(first.index("name") / "shards" / "a.txt")
    second.store.refresh(second.index("name"))
    assert not second.fetch(path).exists()


def test_temporaries_downloads_and_locks_stay_on_their_machine(open_machine: OpenMachine, bucket_url: str) -> None:
    """Only what a record or a listing refers to becomes an object."""
    root = open_machine("first")
    for path in (root.source("d", "1") / "x.png", root.path / "models" / "m", root.path / "prefect" / "db"):
        root.scratch.write_text(path, "x")
    publish(root, "c" * 64)
    keys = [entry.key for entry in root.store.client.list() if not entry.key.startswith("leases/")]  # type: ignore[attr-defined]
    assert sorted(keys) == [
        "indexes/name/current",
        f"indexes/name/shards/{'c' * 64}.faiss",
        f"indexes/name/snapshots/00001-{'c' * 10}/manifest.json",
    ]


def test_a_damaged_copy_is_downloaded_again_and_a_damaged_object_is_found(open_machine: OpenMachine) -> None:
    """Bytes of equal length but other content, once in the copy and once in the store."""
    root = open_machine("first")
    path = root.index("name") / "shards" / "a.txt"
    root.scratch.write_text(path, "good")
    ref = root.make_ref(path)
    path.write_text("evil")
    assert root.verify_file(ref).read_text() == "good"
    import obstore

    store = root.store.client._store  # type: ignore[attr-defined]
    obstore.put(store, ref.path, b"evil", attributes={"sha256": ref.sha256 or ""})
    path.unlink()
    with pytest.raises(DamagedFile):
        root.file(ref)
    assert not root.exists(path), "so that a build makes it again"


def test_a_snapshot_is_read_and_verified_on_another_machine(open_machine: OpenMachine) -> None:
    """Its files are links to the copies of pool files; a damaged one is brought again."""
    first = open_machine("first")
    snapshot_id = publish(first, "a" * 64, "content")
    second = open_machine("second", create=False)
    snapshots = Snapshots(second, "name")
    with hold_snapshot(snapshots) as manifest:
        assert manifest.snapshot_id == snapshot_id
        folder = snapshots.fetch(manifest)
        assert (folder / "data.bin").read_text() == "content"
        (folder / "data.bin").write_text("CONTENT")
        snapshots.verify(manifest)
        assert (folder / "data.bin").read_text() == "content"


def publish_or_not(snapshots: Snapshots, snapshot_id: str, before: str | None) -> bool:
    """Publish in place of `before`; return whether it was this snapshot that replaced it."""
    try:
        snapshots.publish(snapshot_id, replacing=before)
    except BuildInProgress:
        return False
    return True


def test_of_two_publishers_one_wins_each_round(open_machine: OpenMachine) -> None:
    """Twenty rounds: both start from the same pointer; one replaces it, the other gets an error."""
    roots = [open_machine("first"), open_machine("second")]
    indexes = [Snapshots(root, "name") for root in roots]
    for number in range(20):
        before = indexes[0].read_pointer()
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(publish_or_not, indexes, [f"{number:05d}-machine{who}" for who in (0, 1)], [before] * 2))
        assert sorted(outcomes) == [False, True], number
        winner = outcomes.index(True)
        assert indexes[0].read_pointer() == f"{number:05d}-machine{winner}"


def test_a_lease_excludes_and_is_released(open_machine: OpenMachine) -> None:
    """The second machine is refused with the holder's name, and gets the lease after its release."""
    first, second = open_machine("first"), open_machine("second")
    with first.lease_index("name", "build-index"):
        with pytest.raises(BuildInProgress, match="build-index of name"), second.lease_index("name", "other"):
            pytest.fail("both hold the lease")
        with second.lease_index("another", "other"):
            pass
    with second.lease_index("name", "other"):
        pass


def test_the_root_is_shared_by_builds_and_had_alone_by_garbage_collection(open_machine: OpenMachine) -> None:
    first, second = open_machine("first"), open_machine("second")
    with first.hold_shared(), second.hold_shared():
        pass
    with first.hold_shared(), pytest.raises(BuildInProgress), second.hold_exclusive("gc"):
        pytest.fail("not alone")
    with second.hold_exclusive("gc"):
        pass


class SleptTime:
    """Stands for the module `time` in the leases: counts the seconds that were slept, and not how fast this machine is."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.slept += seconds


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_the_lease_of_a_silent_process_is_taken_over(
    open_machine: OpenMachine, holder: subprocess.Popen[str], stop: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or stopped, after its time to live and before half as much again. The stopped one ends as lost, and writes nothing more."""
    root, clock = open_machine("second"), SleptTime()
    with pytest.raises(BuildInProgress), root.lease_index("name", "second"):
        pytest.fail("taken from a living process")
    os.kill(holder.pid, stop)
    monkeypatch.setattr(object_leases, "time", clock)
    with root.lease_index("name", "second"):
        assert get_lease_seconds() <= clock.slept <= 1.5 * get_lease_seconds()
        monkeypatch.setattr(object_leases, "time", time)
        before = set(root.list_files(root.index("name"), "**"))
        if stop == signal.SIGSTOP:
            os.kill(holder.pid, signal.SIGCONT)
            assert holder.stdout
            assert holder.stdout.readline() == "lost\n"
            root.store.refresh(root.index("name"))
            assert len(set(root.list_files(root.index("name"), "**")) - before) <= 1, "at most the write that was under way"


def test_a_build_that_lost_its_lease_writes_nothing(open_machine: OpenMachine) -> None:
    """Its next commit raises, and the store has no such object."""
    root = open_machine("first")
    with pytest.raises(LeaseLost), root.lease_index("name", "build-index"):
        client = root.store.client  # type: ignore[attr-defined]
        client.put("leases/indexes/name/lease", b'{"holder": "a thief", "epoch": 9, "beat": 0}')
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            root.scratch.write_text(root.index("name") / "shards" / "late.txt", "x")
            time.sleep(0.1)
    assert client.read("leases/indexes/name/lease").data.startswith(b'{"holder": "a thief"'), "a lost lease is not released"


def test_readers_keep_their_snapshot_and_retired_files_stay_for_a_while(open_machine: OpenMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held: nothing goes. Released: the manifest goes at once, the pool file after the time for late readers."""
    writer, reader = open_machine("first"), open_machine("second")
    old = publish(writer, "a" * 64)
    snapshots = Snapshots(writer, "name")
    with hold_snapshot(Snapshots(reader, "name"), old):
        new = publish(writer, "b" * 64)
        assert apply_retention(snapshots, keep=1) == []
    assert apply_retention(snapshots, keep=1) == [old]
    assert snapshots.list_ids() == [new]
    pool_file = writer.index("name") / "shards" / f"{'a' * 64}.faiss"
    assert writer.exists(pool_file)
    monkeypatch.setattr(retention, "get_retired_seconds", lambda: 0.0)
    apply_retention(snapshots, keep=1)
    assert not writer.exists(pool_file)
    with pytest.raises(InputError, match="no snapshot"), hold_snapshot(Snapshots(reader, "name"), old):
        pytest.fail("removed")


def test_a_reader_that_died_does_not_keep_its_snapshot_for_ever(open_machine: OpenMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last sign of life is older than the time that counts."""
    root = open_machine("first")
    old = publish(root, "a" * 64)
    client = root.store.client  # type: ignore[attr-defined]
    client.put(f"indexes/name/snapshots/{old}/readers/dead", b"")
    publish(root, "b" * 64)
    assert apply_retention(Snapshots(root, "name"), keep=1) == []
    monkeypatch.setattr(object_store, "READER_BEAT_SECONDS", 0.0)
    assert apply_retention(Snapshots(root, "name"), keep=1) == [old]


def test_readers_without_write_permission_read(
    open_machine: OpenMachine, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(open_machine("first"), "a" * 64, "content")
    for name, value in object_server.environment(reader=True).items():
        monkeypatch.setenv(name, value)
    snapshots = Snapshots(open_machine("second", create=False), "name")
    with hold_snapshot(snapshots) as manifest:
        assert (snapshots.fetch(manifest) / "data.bin").read_text() == "content"


def test_garbage_collection_removes_objects_and_stale_copies(open_machine: OpenMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one machine removes, the other forgets when it collects."""
    monkeypatch.setattr(retention, "get_retired_seconds", lambda: 0.0)
    first, second = open_machine("first"), open_machine("second")
    publish(first, "a" * 64)
    second.store.refresh(second.path / "indexes")
    manifest = Snapshots(second, "name").read_manifest()
    Snapshots(second, "name").fetch(manifest)
    publish(first, "b" * 64)
    with first.hold_exclusive("gc"):
        collect_garbage(first)
        assert {entry.kind for entry in collect_garbage(first)} <= {"pool file"}
    assert [path.name for path in first.list_files(first.index("name") / "shards", "*")] == [f"{'b' * 64}.faiss"]
    stale = second.index("name") / "shards" / f"{'a' * 64}.faiss"
    assert stale.exists()
    second.store.refresh(second.path / "indexes")
    with second.hold_exclusive("gc"):
        collect_garbage(second)
    assert not stale.exists()


def test_a_root_is_copied_into_a_store_and_back(open_machine: OpenMachine, tmp_path: Path) -> None:
    """Folder to objects to another folder: the same files, snapshots, pins and pointer; a second copy copies nothing."""
    source = Root(tmp_path / "source")
    first = publish(source, "a" * 64, "one")
    pin(Snapshots(source, "name"), first)
    live = publish(source, "b" * 64, "two")
    store, target = open_machine("first"), Root(tmp_path / "target")
    done: list[int] = []
    result = copy_root(source, store, done.append)
    assert (result.copied, result.bytes, result.skipped) == (2, 6, 0)
    assert sum(done) == len(list(list_keys(source))) == 2
    assert copy_root(source, store, done.append).copied == 0
    copy_root(store, target, done.append)
    snapshots = Snapshots(target, "name")
    assert snapshots.list_ids() == [first, live]
    assert snapshots.get_live_id() == live
    assert retention.list_pinned(snapshots) == {first}
    for snapshot_id, text in ((first, "one"), (live, "two")):
        snapshots.verify(snapshots.read_manifest(snapshot_id))
        assert (snapshots.get_path(snapshot_id) / "data.bin").read_text() == text
    with pytest.raises(InputError, match="onto itself"):
        copy_root(target, target, done.append)
    source.close()
    target.close()


def test_a_damaged_source_is_not_published_in_the_copy(open_machine: OpenMachine, tmp_path: Path) -> None:
    source = Root(tmp_path / "source")
    publish(source, "a" * 64, "good")
    (source.index("name") / "shards" / f"{'a' * 64}.faiss").write_text("evil")
    target = open_machine("first")
    with pytest.raises(DamagedFile):
        copy_root(source, target, lambda _: None)
    assert Snapshots(target, "name").get_live_id() is None
    source.close()


@pytest.mark.slow
def test_a_store_that_is_down_is_waited_for_and_then_given_up(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Down for some seconds: the commit waits. Down for good: an error, and nothing is lost."""
    server = ObjectServer(tmp_path_factory.mktemp("own-objects"))
    server.start()
    for name, value in {**server.environment(), "INDEXMILL_CACHE": str(tmp_path / "cache"), "INDEXMILL_STORE_PATIENCE": "120"}.items():
        monkeypatch.setenv(name, value)
    try:
        root = Root("s3://tests/down")
        path = root.index("name") / "shards" / "a.txt"
        with root.lease_index("name", "build-index"):
            server.stop()
            restart = threading.Timer(8, server.start)
            restart.start()
            root.scratch.write_text(path, "written after the pause")
            restart.join()
        monkeypatch.setenv("INDEXMILL_STORE_PATIENCE", "2")
        impatient = Root("s3://tests/down")
        with (
            pytest.raises(StoreUnreachable, match="finished work is kept"),
            impatient.hold_shared(),
            impatient.lease_index("name", "build"),
        ):
            server.stop()
            impatient.scratch.write_text(impatient.index("name") / "shards" / "b.txt", "x")
        server.start()
        assert [found.name for found in Root("s3://tests/down").list_files(path.parent, "*")] == ["a.txt"]
    finally:
        server.stop()


def test_no_secret_is_in_the_store_or_in_the_copies(open_machine: OpenMachine) -> None:
    root = open_machine("first")
    publish(root, "a" * 64)
    with root.lease_index("name", "build-index"), hold_snapshot(Snapshots(root, "name")):
        for entry in root.store.client.list():  # type: ignore[attr-defined]
            content = root.store.client.read(entry.key)  # type: ignore[attr-defined]
            assert content is None or SECRET.encode() not in content.data
    assert not [path for path in root.path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
