"""A build or a plan without work is answered from cached records, and needs no server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexmill.flows.plan_index import plan_index
from indexmill.flows.result_store import RecordStorage
from indexmill.flows.unchanged_runs import find_unchanged_build, find_unchanged_plan
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.storage.stopping import Stopped, build_stopped_error
from tests.conftest import SETTINGS, FinishedBuild

Find = Callable[..., dict[str, Any] | None]


@pytest.fixture
def root(finished_build: FinishedBuild, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_build.root, tmp_path / "root"))


@pytest.fixture
def find(root: Path, digits: Path) -> Find:
    """Look for work: find("dotted.key=value", pictures=folder, force=reason)."""

    def run(*settings: str, pictures: Path = digits, force: str | None = None) -> dict[str, Any] | None:
        return find_unchanged_build("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS, *settings], force)

    return run


def test_the_summary_is_that_of_the_build_with_every_stage_cached(find: Find, finished_build: FinishedBuild, root: Path) -> None:
    built, found = finished_build.summary, find()
    assert found is not None
    assert all(stage["cached"] for stage in found["stages"].values())
    assert found["stages"].keys() == built["stages"].keys()
    assert (found["encoded"], found["reused"]) == (0, built["encoded"])
    assert Path(found["path"]).is_relative_to(root)
    differing = {"stages", "encoded", "reused", "path", "report"}
    assert {key: value for key, value in found.items() if key not in differing} == {
        key: value for key, value in built.items() if key not in differing
    }


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_anything_that_a_build_would_mend_or_renew_is_work(
    find: Find, finished_build: FinishedBuild, digits: Path, pictures: Path, root: Path, tmp_path: Path
) -> None:
    """Another setting, another folder, an image less, a damaged byte or a missing file of the live snapshot, no pointer."""
    assert find("index.factory=IVF4,Flat") is None
    assert find(force="whatever the gate says") is None
    assert find(pictures=pictures) is None
    image = next(digits.rglob("*.png"))
    image.rename(tmp_path / image.name)
    try:
        assert find() is None
    finally:
        (tmp_path / image.name).rename(image)
    live = Path(finished_build.root / "indexes/demo-images/snapshots" / finished_build.summary["snapshot_id"])
    for damage in (flip_byte, Path.unlink):
        for name in ("report/report.html", "manifest.json"):
            path = root / live.relative_to(finished_build.root) / name
            content = path.read_bytes()
            path.unlink()  # the copy may share the file with others
            path.write_bytes(content)
            damage(path)
            assert find() is None, (damage, name)
            path.write_bytes(content)
    assert find() is not None
    (root / "indexes/demo-images/current").unlink()
    assert find() is None


def test_a_damaged_record_in_the_cache_is_work(find: Find, root: Path) -> None:
    record = next((root / "cache").glob("tune-*"))
    content = record.read_bytes()
    for damaged in (b"", content[:-20], content.replace(b"TunedIndex", b"OtherIndex"), b"not json"):
        record.write_bytes(damaged)
        assert find() is None
    record.write_bytes(content)
    assert find() is not None


def test_a_build_in_progress_is_left_to_the_flow_to_report(find: Find, root: Path) -> None:
    with Root(root).lease_index("demo-images", "build-index"):
        assert find() is None


def test_a_signal_ends_the_search_for_work_and_no_build_follows(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM while the records are read, as the command line turns it into an error."""

    def read_record(*_: object) -> None:
        raise build_stopped_error(signal.SIGTERM)

    monkeypatch.setattr(RecordStorage, "read_record", read_record)
    with pytest.raises(Stopped, match="SIGTERM"):
        find()


def test_a_plan_is_the_flows(root: Path, digits: Path, pictures: Path) -> None:
    """Equal but for what the machine has left. Other images are left to the flow; an error is raised at once."""
    settings = [f"dataset.path={digits}", *SETTINGS]
    found, planned = find_unchanged_plan("demo-images", str(root), settings), plan_index("demo-images", str(root), settings)
    assert found is not None
    assert found.keys() == planned.keys()
    measured = {key for key in found if "available" in key or "free" in key}
    assert {key: found[key] for key in found.keys() - measured} == {key: planned[key] for key in planned.keys() - measured}
    assert find_unchanged_plan("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS]) is None
    with pytest.raises(InputError, match="nowhere"):
        find_unchanged_plan("demo-images", str(root), ["dataset.path=/nowhere", *SETTINGS])


@pytest.mark.slow
def test_the_command_starts_no_server_for_an_unchanged_build(finished_build: FinishedBuild, root: Path, digits: Path) -> None:
    """Prefect's server would create its database in the root."""
    shutil.rmtree(root / "prefect", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = [argument for setting in (f"dataset.path={digits}", *SETTINGS) for argument in ("--set", setting)]
    command = [sys.executable, "-m", "indexmill", "build", "demo-images", "--root", str(root), "--json", *settings]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["snapshot_id"] == finished_build.summary["snapshot_id"]
    assert not list(root.glob("prefect/*.db"))
    assert Snapshots(Root(root), "demo-images").get_live_id() == finished_build.summary["snapshot_id"]
