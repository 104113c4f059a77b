"""Killed just before and just after every single commit of a build: the next one ends as if nothing had been.

Two commits in the usual run, spread over the build; all of them with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build
from tests.faults.killing import SETTINGS, agrees, items, killed, run


@pytest.fixture(scope="module")
def count(server: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many commits a build makes."""
    folder = tmp_path_factory.mktemp("whole")
    done = run("count", str(folder / "count"), folder / "root", digits)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return int((folder / "count").read_text())


def points(count: int) -> list[tuple[str, int]]:
    """The commits to die at."""
    if "INDEXMILL_SOAK" in os.environ:
        return [(when, number) for number in range(1, count + 1) for when in ("before", "after")]
    return [("before", count // 3), ("after", count * 3 // 4)]


def test_a_build_may_die_at_any_commit(count: int, undisturbed: dict[str, Any], digits: Path, build: Build, tmp_path: Path) -> None:
    """Items, metrics and snapshot are the undisturbed build's, nothing temporary is left, what is live meanwhile is whole or nothing."""
    assert count > 20
    for when, number in points(count):
        root = tmp_path / f"{when}-{number}"
        killed(when, str(number), root, digits)
        snapshots = Snapshots(Root(root), "demo-images")
        if snapshots.get_live_id():
            snapshots.verify(snapshots.read_manifest())
        summary = build(digits, *SETTINGS, root=root)
        assert items(summary) == items(undisturbed), (when, number)
        assert (summary["metrics"], summary["snapshot_id"]) == (undisturbed["metrics"], undisturbed["snapshot_id"]), (when, number)
        agrees(root)
        assert not list((root / "tmp").glob("*-*")), (when, number)
