"""The commands about snapshots, on real builds: going back, keeping, comparing, cleaning up."""

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
from tests.conftest import Build


def told(root: Path, *arguments: str, code: int = 0) -> Any:
    """What a command answers in JSON; its message where it fails."""
    run = CliRunner().invoke(app, [*arguments, "--root", str(root), *(["--json"] if code == 0 else [])])
    assert run.exit_code == code, run.output
    return json.loads(run.stdout) if code == 0 else run.stderr


def test_three_nights_and_back(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """Two classes go, one a night. Back to the first night: it is live while nothing changes, and the next change is compared with it."""
    root, ids = tmp_path / "root", []
    for label in (None, "9", "8"):
        if label:
            shutil.rmtree(pictures / label)
        ids.append(quick_build(pictures)["snapshot_id"])
    rows = told(root, "snapshots", "demo-images")
    assert [row["snapshot_id"] for row in rows] == ids
    assert [(row["live"], row["items"]) for row in rows] == [(False, 120), (False, 108), (True, 96)]
    found = told(root, "diff", "demo-images", ids[0])
    assert found["items"] == {"added": 0, "removed": 24, "changed": 0, "relabelled": 0, "kept": 96}
    assert found["metrics"]["map"]["queries"] == found["common_queries"]
    assert told(root, "rollback", "demo-images") == {"name": "demo-images", "before": ids[2], "live": ids[1]}
    assert told(root, "rollback", "demo-images") == {"name": "demo-images", "before": ids[1], "live": ids[0]}
    assert "there is no earlier published snapshot" in told(root, "rollback", "demo-images", code=2)
    assert told(root, "show", "demo-images")["items"] == 120
    assert not quick_build(pictures)["published"]  # the owner went back, and nothing is new
    assert Snapshots(Root(root), "demo-images").get_live_id() == ids[0]
    shutil.rmtree(pictures / "7")
    fourth = quick_build(pictures)
    assert fourth["published"]
    assert told(root, "show", "demo-images")["parent"] == ids[0]
    assert told(root, "verify", "demo-images")["whole"]
    damaged = Path(fourth["path"]) / "items.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "a file does not match its record" in told(root, "verify", "demo-images", code=2)


def test_what_is_collected_is_missed_by_nobody(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Vectors of a class go with the last snapshot that has it, unless that is pinned; the next build has nothing to encode."""
    root = tmp_path / "root"
    first = build(pictures, "publish.keep=1")["snapshot_id"]
    assert told(root, "pin", "demo-images") == {"name": "demo-images", "snapshot_id": first, "pinned": True}
    shutil.rmtree(pictures / "9")
    build(pictures, "publish.keep=1")
    assert told(root, "gc", "--days", "0") == []
    assert told(root, "pin", "demo-images", first, "--off") == {"name": "demo-images", "snapshot_id": first, "pinned": False}
    planned = told(root, "gc", "--days", "0", "--dry-run")
    collected = told(root, "gc", "--days", "0")
    assert planned == collected
    vectors = [one["rows"] for one in collected if one["kind"] == "vectors"]
    assert vectors == [12]
    assert [one["kind"] for one in collected].count("snapshot") == 1
    again = build(pictures, "publish.keep=1")
    assert again["encoded"] == 0
    assert again["published"]
    Snapshots(Root(root), "demo-images").verify(Snapshots(Root(root), "demo-images").read_manifest())
    assert told(root, "gc", "--days", "0") == []


def test_every_command_about_snapshots_speaks_json() -> None:
    """So that a program need not read what is meant for people."""
    callbacks = [command.callback for command in snapshot_commands.registered_commands if command.callback]
    assert len(callbacks) >= 7
    assert [callback.__name__ for callback in callbacks if "as_json" not in signature(callback).parameters] == []


@pytest.mark.parametrize("command", [["show"], ["verify"], ["rollback"], ["snapshots"], ["pin"]])
def test_an_index_that_is_not_there_is_an_error_with_the_way_on(tmp_path: Path, command: list[str]) -> None:
    """And so is a name that is no name."""
    Root(tmp_path / "root")
    assert "there is no index birds" in told(tmp_path / "root", *command, "birds", code=2)
    assert "this is not a valid index name" in told(tmp_path / "root", *command, "../birds", code=2)
