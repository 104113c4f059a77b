"""A build that dies at any instant leaves the last good state, and the next one goes on from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build
from tests.faults.killing import HERE, SETTINGS, arguments, items, killed, processes_of


@pytest.mark.parametrize(
    ("when", "text", "encoded"),
    [("after", "/embeddings/", 70), ("before", "shards/", 0), ("after", "manifest.json", 120), ("before", "current", 0)],
)
def test_a_killed_build_goes_on_at_the_last_finished_shard_and_ends_as_if_undisturbed(
    when: str, text: str, encoded: int, server: str, undisturbed: dict[str, Any], digits: Path, build: Build, tmp_path: Path
) -> None:
    """In mid-encode, before the first FAISS file, after the first manifest, and between the snapshot and its pointer."""
    root = tmp_path / "root"
    killed(when, text, root, digits)
    assert Snapshots(Root(root), "demo-images").get_live_id() is None
    summary = build(digits, *SETTINGS)
    assert summary["encoded"] == encoded
    assert summary["metrics"] == undisturbed["metrics"]
    assert items(summary) == items(undisturbed)
    assert summary["snapshot_id"] == undisturbed["snapshot_id"]
    assert not list((root / "tmp").glob("*-*"))


def test_the_live_snapshot_stays_while_its_successor_dies(server: str, pictures: Path, build: Build, tmp_path: Path) -> None:
    """Killed on the last step before the swap: readers still get the old one, whole."""
    root = tmp_path / "root"
    before = build(pictures, *SETTINGS)
    next(pictures.rglob("*.png")).unlink()
    killed("before", "current", root, pictures)
    snapshots = Snapshots(Root(root), "demo-images")
    assert snapshots.get_live_id() == before["snapshot_id"]
    snapshots.verify(snapshots.read_manifest())
    after = build(pictures, *SETTINGS)
    assert after["snapshot_id"] != before["snapshot_id"]
    assert snapshots.get_live_id() == after["snapshot_id"]


def test_a_killed_build_leaves_no_server_behind_and_nothing_in_the_home_directory(digits: Path, tmp_path: Path) -> None:
    """With the embedded server: its process goes within seconds of the build's."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") and name != "MPLCONFIGDIR"}
    root = tmp_path / "root"
    killed("after", "/embeddings/", root, digits, env={**kept, "HOME": str(home)})
    deadline = time.monotonic() + 20
    while (left := processes_of(root)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    command = [sys.executable, "-m", "indexmill", *arguments(root, digits)]
    run = subprocess.run(command, env={**kept, "HOME": str(home)}, cwd=HERE.parents[1], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1])["encoded"] == 70
    assert processes_of(root) == []
    assert list(home.rglob("*")) == []
