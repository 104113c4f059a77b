"""Readers open the live snapshot again and again while newer ones are published and it is removed.

Ten readers and six publishes by default, four and five of a store; fifty and twenty with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from indexmill.storage.copying import copy_root
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build, FinishedBuild
from tests.faults.killing import HERE
from tests.serve.publish_helper import publish_again

LONG = "INDEXMILL_SOAK" in os.environ
PROCESSES, THREADS, PUBLISHES = (5, 10, 20) if LONG else (2, 5, 6)


@pytest.mark.slow
def test_every_reader_gets_one_consistent_snapshot(next_build: Build, pictures: Path, tmp_path: Path) -> None:
    """Two snapshots with different items are published in turn, and only two are kept: no reader gets a mixture or an error."""
    shutil.rmtree(pictures / "9")
    next_build(pictures)
    check_readers(tmp_path / "root", tmp_path, PROCESSES, THREADS, PUBLISHES)


@pytest.mark.slow
def test_every_reader_of_a_store_gets_one_consistent_snapshot(
    next_build: Build, pictures: Path, tmp_path: Path, bucket_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers on machines of their own, while two others publish in turn and collect garbage."""
    shutil.rmtree(pictures / "9")
    next_build(pictures)
    copy_root(Root(tmp_path / "root"), Root(bucket_url), lambda _: None)

    def collect(number: int) -> None:
        monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / f"writer-{number % 2}"))
        root = Root(bucket_url)
        with root.hold_exclusive("gc"):
            collect_garbage(root)
        root.close()

    check_readers(bucket_url, tmp_path, PROCESSES if LONG else 2, THREADS if LONG else 2, PUBLISHES if LONG else 5, collect)


def check_readers(
    root: Path | str, folder: Path, processes: int, threads: int, publishes: int, after_publish: Callable[[int], None] = lambda _: None
) -> None:
    """Publish again and again while other processes read; `folder` gets their caches."""
    end = folder / "end"
    command = [sys.executable, str(HERE / "reading_on.py"), str(root), "demo-images", str(threads), str(end)]
    readers = []
    for number in range(processes):
        environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "INDEXMILL_CACHE": str(folder / f"reader-{number}")}
        readers.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True))
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    published = []
    try:
        for number in range(publishes):
            previous = Snapshots(Root(root, create=False), "demo-images").list_ids()[-2]
            published.append(publish_again(root, "demo-images", keep=2, like=previous))
            after_publish(number)
            if number % 3 == 1:  # the others are replaced at once
                wait_until((folder / f"read-{published[-1]}").exists)
    finally:
        end.touch()
        results = [json.loads(reader.communicate(timeout=600)[0]) for reader in readers]
    assert [error for result in results for error in result["errors"]] == []
    snapshots_read = {key for result in results for key in result["answers"]}
    assert {items for _, items in map(str.split, snapshots_read)} == {"120", "108"}
    assert len(snapshots_read) >= 2
    assert Snapshots(Root(root, create=False), "demo-images").get_live_id() == published[-1]


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_reader_whose_snapshot_is_replaced_and_removed_opens_the_next(
    finished_build: FinishedBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happens between reading the pointer and opening the manifest; with one snapshot kept, one publish is enough."""
    from indexmill.serve import open_index

    root = Path(shutil.copytree(finished_build.root, tmp_path / "root"))
    ids, read_pointer = list[str | None](), Snapshots.read_pointer

    def read_before_publish(snapshots: Snapshots) -> str | None:
        snapshot_id = read_pointer(snapshots)
        if not ids:
            ids.append(snapshot_id)
            ids.append(publish_again(root, "demo-images", keep=1))
        return snapshot_id

    monkeypatch.setattr(Snapshots, "read_pointer", read_before_publish)
    assert open_index(root, "demo-images").manifest.snapshot_id == ids[1] != ids[0]
