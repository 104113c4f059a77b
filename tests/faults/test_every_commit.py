"""Builds killed just before and just after a commit: the next one ends like an undisturbed one.

Two commits by default, spread over the build; all of them with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import SETTINGS, Build
from tests.faults.killing import check_consistency, read_items, run, run_killed

LONG = "INDEXMILL_SOAK" in os.environ


@pytest.mark.slow
def test_a_build_may_die_at_any_commit(undisturbed: dict[str, Any], digits: Path, quick_build: Build, tmp_path: Path) -> None:
    """Items, metrics and snapshot are the undisturbed build's, nothing temporary is left, and meanwhile the live snapshot is intact."""
    count = count_commits(copy_root(tmp_path, "count"), digits, tmp_path / "count.txt")
    assert count > 20
    for when, number in choose_commits(count):
        root = copy_root(tmp_path, f"{when}-{number}")
        run_killed(when, str(number), root, digits)
        snapshots = Snapshots(Root(root), "demo-images")
        if snapshots.get_live_id():
            snapshots.verify(snapshots.read_manifest())
        summary = quick_build(digits, *SETTINGS, root=root)
        assert read_items(summary) == read_items(undisturbed), (when, number)
        assert (summary["metrics"], summary["snapshot_id"]) == (undisturbed["metrics"], undisturbed["snapshot_id"]), (when, number)
        check_consistency(root)
        assert not list((root / "tmp").glob("*-*")), (when, number)


def copy_root(folder: Path, name: str) -> Path:
    """Copy the root of `quick_build`, in which the digits are encoded; all of a build is run where every commit is tried."""
    return folder / name if LONG else Path(shutil.copytree(folder / "root", folder / name))


def count_commits(root: Path, digits: Path, output: Path) -> int:
    done = run("count", str(output), root, digits)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return int(output.read_text())


def choose_commits(count: int) -> list[tuple[str, int]]:
    if LONG:
        return [(when, number) for number in range(1, count + 1) for when in ("before", "after")]
    return [("before", count // 3), ("after", count * 3 // 4)]
