"""The commands about snapshots, on real builds: rollback, pin, diff, gc."""

from __future__ import annotations

import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.flows.cli.snapshots import snapshot_commands
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build, FinishedBuild


def invoke(root: Path, *arguments: str, code: int = 0) -> Any:
    """Run a command. Returns its JSON output, or what it prints to standard error where it is expected to fail."""
    run = CliRunner().invoke(app, [*arguments, "--root", str(root), *(["--json"] if code == 0 else [])])
    assert run.exit_code == code, run.output
    return json.loads(run.stdout) if code == 0 else run.stderr


@pytest.mark.parametrize("labels", ["9", pytest.param("98", marks=pytest.mark.slow)])
def test_snapshots_are_listed_compared_and_rolled_back(
    labels: str, next_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path
) -> None:
    """One class goes per build. After rollbacks the first snapshot stays live until something changes, and is the next parent."""
    root, ids, counts = tmp_path / "root", [finished_build.summary["snapshot_id"]], [120]
    for label in labels:
        shutil.rmtree(pictures / label)
        ids.append(next_build(pictures)["snapshot_id"])
        counts.append(counts[-1] - 12)
    rows = invoke(root, "snapshots", "demo-images")
    assert [row["snapshot_id"] for row in rows] == ids
    assert [(row["live"], row["items"]) for row in rows] == [*((False, count) for count in counts[:-1]), (True, counts[-1])]
    diff = invoke(root, "diff", "demo-images", ids[0])
    assert diff["items"] == {"added": 0, "removed": 120 - counts[-1], "changed": 0, "relabeled": 0, "kept": counts[-1]}
    assert diff["metrics"]["map"]["queries"] == diff["common_queries"]
    for before, live in zip(ids[:0:-1], ids[-2::-1], strict=True):
        assert invoke(root, "rollback", "demo-images") == {"name": "demo-images", "before": before, "live": live}
    assert "there is no earlier published snapshot" in invoke(root, "rollback", "demo-images", code=2)
    assert invoke(root, "show", "demo-images")["items"] == 120
    assert not next_build(pictures)["published"]  # somebody rolled back, and nothing is new
    assert Snapshots(Root(root), "demo-images").get_live_id() == ids[0]
    shutil.rmtree(pictures / "7")
    fourth = next_build(pictures)
    assert fourth["published"]
    assert invoke(root, "show", "demo-images")["parent"] == ids[0]
    assert invoke(root, "verify", "demo-images")["whole"]
    damaged = Path(fourth["path"]) / "items.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "a file does not match its record" in invoke(root, "verify", "demo-images", code=2)


@pytest.mark.slow
def test_data_that_changed_and_changed_back_are_published_again(
    next_build: Build, finished_build: FinishedBuild, digits: Path, pictures: Path, tmp_path: Path
) -> None:
    """Every stage but publish is cached. The third snapshot has the first one's content, and the first stays as it was."""
    snapshots, first = Snapshots(Root(tmp_path / "root"), "demo-images"), finished_build.summary["snapshot_id"]
    manifest = snapshots.read_manifest(first)
    shutil.rmtree(pictures / "9")
    second = next_build(pictures)["snapshot_id"]
    third = next_build(digits)
    assert [name for name, stage in third["stages"].items() if not stage["cached"]] == ["publish"]
    assert third["published"]
    assert snapshots.list_ids() == [first, second, third["snapshot_id"]]
    assert snapshots.get_live_id() == third["snapshot_id"]
    assert snapshots.read_manifest().content == manifest.content
    assert snapshots.read_manifest(first) == manifest
    snapshots.verify(manifest)
    assert next_build(digits)["snapshot_id"] == third["snapshot_id"]


@pytest.mark.slow
def test_garbage_collection_removes_nothing_that_a_snapshot_or_build_needs(
    next_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path
) -> None:
    """Vectors of a class go with the last snapshot that has it, unless that is pinned; the next build has nothing to encode."""
    root, first = tmp_path / "root", finished_build.summary["snapshot_id"]
    assert invoke(root, "pin", "demo-images") == {"name": "demo-images", "snapshot_id": first, "pinned": True}
    shutil.rmtree(pictures / "9")
    next_build(pictures, "publish.keep=1")
    assert "vectors" not in {entry["kind"] for entry in invoke(root, "gc", "--days", "0")}
    assert invoke(root, "gc", "--days", "0") == []
    assert invoke(root, "pin", "demo-images", first, "--off") == {"name": "demo-images", "snapshot_id": first, "pinned": False}
    planned = invoke(root, "gc", "--days", "0", "--dry-run")
    collected = invoke(root, "gc", "--days", "0")
    assert planned == collected
    assert sum(entry["rows"] for entry in collected if entry["kind"] == "vectors") == 12  # from two parts
    assert [entry["kind"] for entry in collected].count("snapshot") == 1
    again = next_build(pictures, "publish.keep=1")
    assert again["encoded"] == 0
    assert again["published"]
    Snapshots(Root(root), "demo-images").verify(Snapshots(Root(root), "demo-images").read_manifest())
    assert invoke(root, "gc", "--days", "0") == []


def test_every_command_about_snapshots_prints_json() -> None:
    """So that no program has to parse what is meant for people."""
    callbacks = [command.callback for command in snapshot_commands.registered_commands if command.callback]
    assert len(callbacks) >= 7
    assert [callback.__name__ for callback in callbacks if "as_json" not in signature(callback).parameters] == []


@pytest.mark.parametrize("command", [["show"], ["verify"], ["rollback"], ["snapshots"], ["pin"]])
def test_an_index_that_does_not_exist_is_refused(tmp_path: Path, command: list[str]) -> None:
    """And so is a name that no index can have."""
    Root(tmp_path / "root")
    assert "there is no index birds" in invoke(tmp_path / "root", *command, "birds", code=2)
    assert "this is not a valid index name" in invoke(tmp_path / "root", *command, "../birds", code=2)
