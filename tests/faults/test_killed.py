"""A build that is killed leaves the last good state, and the next one continues from there."""

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
from tests.conftest import SETTINGS, Build
from tests.faults.killing import HERE, arguments, list_processes, read_items, run_killed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "text", "encoded"),
    [
        ("before", "/keys-00001", 50),
        ("after", "manifest.json", 120),
        *([("before", "shards/", 0), ("before", "current", 0)] if "INDEXMILL_SOAK" in os.environ else []),
    ],
)
def test_a_killed_build_continues_at_the_last_finished_chunk_and_ends_like_an_undisturbed_one(
    when: str, text: str, encoded: int, server: str, undisturbed: dict[str, Any], digits: Path, build: Build, tmp_path: Path
) -> None:
    """Killed while it encodes, after the first manifest, and with INDEXMILL_SOAK before the first FAISS file and before the pointer."""
    root = tmp_path / "root"
    run_killed(when, text, root, digits)
    assert Snapshots(Root(root), "demo-images").get_live_id() is None
    summary = build(digits, *SETTINGS)
    assert summary["encoded"] == encoded
    assert summary["metrics"] == undisturbed["metrics"]
    assert read_items(summary) == read_items(undisturbed)
    assert summary["snapshot_id"] == undisturbed["snapshot_id"]
    assert not list((root / "tmp").glob("*-*"))


@pytest.mark.slow
def test_the_live_snapshot_stays_while_its_successor_dies(
    next_build: Build, undisturbed: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    """Killed on the last step before the swap: readers still get the old one, intact."""
    root = tmp_path / "root"
    next(pictures.rglob("*.png")).unlink()
    run_killed("before", "current", root, pictures)
    snapshots = Snapshots(Root(root), "demo-images")
    assert snapshots.get_live_id() == undisturbed["snapshot_id"]
    snapshots.verify(snapshots.read_manifest())
    after = next_build(pictures)
    assert after["snapshot_id"] != undisturbed["snapshot_id"]
    assert snapshots.get_live_id() == after["snapshot_id"]


@pytest.mark.slow
def test_a_killed_build_leaves_no_server_and_no_file_in_the_home_directory(digits: Path, tmp_path: Path) -> None:
    """With the embedded server, whose process ends when the build dies."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_") and name != "MPLCONFIGDIR"}
    root = tmp_path / "root"
    run_killed("before", "/keys-00001", root, digits, env={**environment, "HOME": str(home)})
    deadline = time.monotonic() + 120
    while (processes := list_processes(root)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes == []
    command = [sys.executable, "-m", "indexmill", *arguments(root, digits)]
    run = subprocess.run(command, env={**environment, "HOME": str(home)}, cwd=HERE.parents[1], capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1])["encoded"] == 50
    assert list_processes(root) == []
    assert list(home.rglob("*")) == []
