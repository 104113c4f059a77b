"""Conflicts over one root: two builds of an index, and a build and garbage collection."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.root import Root
from tests.conftest import SETTINGS, Build
from tests.faults.killing import HERE, arguments, at_commit, check_consistency


@pytest.mark.slow
def test_a_second_build_and_gc_are_refused_while_the_first_build_runs(quick_build: Build, digits: Path, tmp_path: Path) -> None:
    """The same command names the holder of the index, and `gc` the running build. The first build publishes."""
    root = tmp_path / "root"

    def run_others() -> list[tuple[int, str]]:
        command = [sys.executable, "-m", "indexmill", *arguments(root, digits)]
        second = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=900)
        collector = CliRunner().invoke(app, ["gc", "--days", "0", "--root", str(root)])
        return [(second.returncode, second.stderr), (collector.exit_code, collector.stderr)]

    with at_commit("/shards/", run_others) as results:
        summary = quick_build(digits, *SETTINGS)
    ((build_code, build_error), (gc_code, gc_error)) = results[0]
    assert (build_code, gc_code) == (2, 2), results
    assert "a build is running\n" in build_error
    assert f"where:    {root / 'indexes' / 'demo-images' / 'lease'}\n  got:      build-index of demo-images\n" in build_error
    assert "a build is running\n" in gc_error
    assert (summary["published"], check_consistency(root).snapshot_id) == (True, summary["snapshot_id"])


def test_a_build_waits_until_gc_is_done(next_build: Build, digits: Path, tmp_path: Path) -> None:
    """It starts when garbage collection has released the root."""
    path, events, root = tmp_path / "root", list[str](), Root(tmp_path / "root")
    is_held = threading.Event()

    def collect() -> None:
        with root.hold_exclusive("indexmill gc"):
            is_held.set()
            time.sleep(1)
            collect_garbage(root)
            events.append("collected")

    collector = threading.Thread(target=collect)
    collector.start()
    is_held.wait()
    summary = next_build(digits)
    events.append("built")
    collector.join()
    assert events == ["collected", "built"]
    assert check_consistency(path).snapshot_id == summary["snapshot_id"]
