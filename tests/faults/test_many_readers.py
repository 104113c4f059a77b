"""Readers open the live snapshot over and over while others are published in its place and it is removed.

Ten readers and six publishes in the usual run; fifty and twenty with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build
from tests.faults.killing import HERE
from tests.serve.publish_helper import publish_again

PROCESSES, THREADS, PUBLISHES = (5, 10, 20) if "INDEXMILL_SOAK" in os.environ else (2, 5, 6)


def test_each_reader_gets_one_whole_snapshot(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """Two snapshots with other items are published by turns, and only the newest but one is kept: nobody meets a mixture, or an error."""
    root, end = tmp_path / "root", tmp_path / "end"
    quick_build(pictures)
    shutil.rmtree(pictures / "9")
    quick_build(pictures)
    command = [sys.executable, str(HERE / "reading_on.py"), str(root), "demo-images", str(THREADS), str(end)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(PROCESSES)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    snapshots = Snapshots(Root(root), "demo-images")
    published = [publish_again(root, "demo-images", keep=2, like=snapshots.list_ids()[-2]) for _ in range(PUBLISHES)]
    end.touch()
    told = [json.loads(reader.communicate(timeout=60)[0]) for reader in readers]
    assert [trouble for one in told for trouble in one["troubles"]] == []
    seen = {key for one in told for key in one["answers"]}
    assert {items for _, items in map(str.split, seen)} == {"120", "108"}
    assert len(seen) >= 3
    assert snapshots.get_live_id() == published[-1]


def test_a_reader_that_finds_its_snapshot_replaced_and_gone_takes_the_next(
    quick_build: Build, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the pointer and opening the manifest: with one snapshot kept that is all it takes."""
    from indexmill.serve import open_index

    quick_build(digits)
    said, read_pointer = [], Snapshots.read_pointer

    def overtaken(snapshots: Snapshots) -> str | None:
        answer = read_pointer(snapshots)
        if not said:
            said.append(answer)
            said.append(publish_again(tmp_path / "root", "demo-images", keep=1))
        return answer

    monkeypatch.setattr(Snapshots, "read_pointer", overtaken)
    assert open_index(tmp_path / "root", "demo-images").manifest.snapshot_id == said[1] != said[0]
