"""A clock that is wrong or set back: nothing live depends on it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.retention import apply_retention
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import SETTINGS, Build
from tests.faults.killing import check_consistency
from tests.storage.snapshot_files import publish

YEAR = 365 * 86_400


def shift_clock(monkeypatch: pytest.MonkeyPatch, years: float) -> None:
    """Shift this process's clock."""
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + years * YEAR)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(years * YEAR) * 10**9)


@pytest.mark.slow
def test_a_build_is_the_same_whatever_the_clock_says(
    quick_build: Build, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images from the future, a clock two years slow and then ten years fast: the same snapshot, and a changed image is noticed.

    Garbage is collected by the wrong clock: the live snapshot stays intact, and so do the records that the next build reuses.
    """
    for path in pictures.rglob("*.png"):
        os.utime(path, ns=(time.time_ns() + YEAR * 10**9,) * 2)
    first = quick_build(pictures, *SETTINGS)
    with monkeypatch.context() as patch:
        shift_clock(patch, -2)
        assert quick_build(pictures, *SETTINGS)["snapshot_id"] == first["snapshot_id"]
        shutil.copyfile(pictures / "3" / "0003.png", (changed := pictures / "3" / "0013.png"))
        os.utime(changed, (0, 0))
        second = quick_build(pictures, *SETTINGS)
        assert (second["snapshot_id"][:5], second["published"]) == ("00002", True)
    for folder in (tmp_path / "root" / "datasets" / "demo-images").glob("[!m]*/*"):
        os.utime(folder, (0, 0) if "split" in str(folder) else None)
    with monkeypatch.context() as patch:
        shift_clock(patch, 10)
        collect_garbage(Root(tmp_path / "root"))
    assert check_consistency(tmp_path / "root").snapshot_id == second["snapshot_id"]
    third = quick_build(pictures, *SETTINGS)
    assert third["snapshot_id"] == second["snapshot_id"]
    assert third["stages"]["split"]["cached"]


def test_retention_goes_by_snapshot_numbers_and_keeps_the_live_one(root: Root) -> None:
    """Built with a clock that ran backwards: the last one built is the newest, although the others have later dates."""
    snapshots = Snapshots(root, "name")
    ids = [
        publish(root, letter * 64, created_at=f"{year}-01-01T00:00:00+00:00") for letter, year in (("a", 2100), ("b", 2050), ("c", 1999))
    ]
    assert apply_retention(snapshots, keep=1, days=0) == ids[:2]
    assert (snapshots.list_ids(), snapshots.get_live_id()) == (ids[2:], ids[2])
    fourth = publish(root, "d" * 64, created_at="1970-01-01T00:00:00+00:00")
    assert apply_retention(snapshots, keep=1, days=3) == ids[2:]
    assert snapshots.get_live_id() == fourth
