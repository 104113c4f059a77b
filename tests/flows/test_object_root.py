"""Whole builds with the root in an object store: the same index as in a folder, on any machine, through faults."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from indexmill.flows.build_index import build_index
from indexmill.serve.index import open_index
from indexmill.storage.copying import copy_root
from indexmill.storage.errors import DamagedFile
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import SETTINGS, FinishedBuild, copy_encoded_digits, find_prefect_home
from tests.flows.built import list_run_stages
from tests.storage.object_server import SECRET, ObjectServer

OpenMachine = Callable[..., Root]


def test_a_build_in_a_store_is_that_in_a_folder_and_another_machine_goes_on_from_it(
    server: str, finished_build: FinishedBuild, digits: Path, bucket_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same snapshot, metrics and answers; a machine that has nothing runs no stage, and no file holds the secret.

    The digits' vectors are in the store already: the slow builds below encode.
    """
    settings = [f"dataset.path={digits}", *SETTINGS]
    copy_root(Root(copy_encoded_digits(finished_build, tmp_path / "encoded")), Root(bucket_url), lambda _: None)
    summary = build_index("demo-images", bucket_url, settings)
    for key in ("items", "database", "query", "index"):
        assert summary[key] == finished_build.summary[key]
    assert summary["metrics"] == pytest.approx(finished_build.summary["metrics"], abs=1e-6)
    local, remote = (Snapshots(Root(root), "demo-images").read_manifest() for root in (finished_build.root, bucket_url))
    assert [shard.index.sha256 for shard in local.shards] == [shard.index.sha256 for shard in remote.shards]
    monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / "second"))
    again = build_index("demo-images", bucket_url, settings)
    # The files of a snapshot are links, which every machine makes for itself: that is all that is left to do.
    assert list_run_stages(again) <= {"publish"}
    assert again["snapshot_id"] == summary["snapshot_id"]
    monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / "third"))
    picture = next(digits.rglob("*.png"))
    with open_index(bucket_url, "demo-images") as in_store, open_index(finished_build.root, "demo-images") as in_folder:
        answers = [index.search(images=[picture], k=5).results for index in (in_store, in_folder)]
        assert answers[0] == answers[1]
    copies = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert copies == []


@pytest.mark.slow
def test_damaged_objects_and_copies_are_made_again(
    server: str,
    digits: Path,
    bucket_url: str,
    open_machine: OpenMachine,
) -> None:
    """A copy of a shard is damaged, then the object of another: the next builds publish what the first one did."""
    import obstore

    settings = [f"dataset.path={digits}", *SETTINGS]
    first = build_index("demo-images", bucket_url, settings)
    root = Root(bucket_url)
    manifest = Snapshots(root, "demo-images").read_manifest()
    source = next(source for name, source in manifest.sources.items() if name.endswith(".faiss"))
    copy = root.path / source
    copy.write_bytes(b"\0" * copy.stat().st_size)
    assert build_index("demo-images", bucket_url, settings)["metrics"] == pytest.approx(first["metrics"], abs=1e-6)
    fresh = open_machine("fresh")
    obstore.put(fresh.store.client._store, source, b"damaged", attributes={"sha256": "0" * 64})  # type: ignore[attr-defined]
    with pytest.raises(DamagedFile):
        open_machine("reader").fetch(open_machine("reader").path / source)
    second = build_index("demo-images", bucket_url, settings)
    assert second["metrics"] == pytest.approx(first["metrics"], abs=1e-6)
    with open_index(bucket_url, "demo-images") as index:
        assert index.manifest.snapshot_id == second["snapshot_id"]


def stop_at(own: ObjectServer, pattern: str, action: Callable[[], object]) -> threading.Thread:
    """Start a thread that stops the server once there is an object whose key matches a pattern, and then calls `action`."""

    def run() -> None:
        client = ObjectClient("s3://tests/down")
        while not any(re.match(pattern, entry.key) for entry in client.list()):
            time.sleep(0.1)
        own.stop()
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_build_gives_up_on_a_store_that_is_down_for_good_and_waits_for_one_that_is_not(
    server: str, finished_build: FinishedBuild, digits: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Down after the first vectors: exit code 2, no secret in what is printed. Up again, then down for 30 s: the build completes."""
    own = ObjectServer(tmp_path_factory.mktemp("own-objects"))
    own.start()
    variables = {"INDEXMILL_CACHE": str(tmp_path / "cache"), "INDEXMILL_STORE_PATIENCE": "15", "INDEXMILL_LEASE_SECONDS": "2"}
    for name, value in {**own.environment(), **variables}.items():
        monkeypatch.setenv(name, value)
    settings = [f"dataset.path={digits}", *SETTINGS]
    options = [option for setting in settings for option in ("--set", setting)]
    try:
        stopper = stop_at(own, "embeddings/.*/part-", lambda: None)
        command = [sys.executable, "-m", "indexmill", "build", "demo-images", "--verbose", "--root", "s3://tests/down", *options]
        build = subprocess.run(command, capture_output=True, text=True, timeout=900)
        stopper.join()
        assert build.returncode == 2, build.stderr[-3000:]
        assert "the object store does not answer" in build.stderr
        assert "finished work is kept" in build.stderr
        assert SECRET not in build.stdout + build.stderr
        own.start()
        monkeypatch.setenv("INDEXMILL_STORE_PATIENCE", "300")
        client = ObjectClient("s3://tests/down")
        parts = {entry.key: entry.modified for entry in client.list("embeddings") if "/part-" in entry.key}
        assert parts
        assert client.read("indexes/demo-images/current") is None
        stopper = stop_at(own, "indexes/.*/trained/", lambda: (time.sleep(30), own.start()))
        summary = build_index("demo-images", "s3://tests/down", settings)
        stopper.join()
        assert summary["metrics"] == pytest.approx(finished_build.summary["metrics"], abs=1e-6)
        assert {entry.key: entry.modified for entry in client.list("embeddings") if entry.key in parts} == parts
        files = [path for path in find_prefect_home().rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    finally:
        own.stop()
