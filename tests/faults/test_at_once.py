"""Two that want the same at once: builds of one index, and a build and the collector of garbage."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.root import Root
from tests.conftest import Build
from tests.faults.killing import HERE, SETTINGS, agrees, arguments, at_commit


def test_a_second_build_and_the_collector_are_refused_by_name_while_the_first_goes_on(
    quick_build: Build, digits: Path, tmp_path: Path
) -> None:
    """In the midst of a build the same command says who holds the index, and `gc` that a build is running. The first build publishes."""
    root = tmp_path / "root"

    def others() -> list[tuple[int, str]]:
        command = [sys.executable, "-m", "indexmill", *arguments(root, digits)]
        second = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=120)
        collector = CliRunner().invoke(app, ["gc", "--days", "0", "--root", str(root)])
        return [(second.returncode, second.stderr), (collector.exit_code, collector.stderr)]

    with at_commit("/shards/", others) as said:
        summary = quick_build(digits, *SETTINGS)
    ((built, told), (collected, answered)) = said[0]
    assert (built, collected) == (2, 2), said
    assert "a build is running\n" in told
    assert f"where:    {root / 'indexes' / 'demo-images' / 'lease'}\n  got:      build-index of demo-images\n" in told
    assert "a build is running\n" in answered
    assert (summary["published"], agrees(root).snapshot_id) == (True, summary["snapshot_id"])


def test_a_build_waits_until_the_collector_is_done(quick_build: Build, digits: Path, tmp_path: Path) -> None:
    """Nothing is taken from under it: it begins when the collector has let go of the root."""
    root, order, place = tmp_path / "root", list[str](), Root(tmp_path / "root")
    alone = threading.Event()

    def collecting() -> None:
        with place.hold_exclusive("indexmill gc"):
            alone.set()
            time.sleep(1)
            collect_garbage(place)
            order.append("collected")

    collector = threading.Thread(target=collecting)
    collector.start()
    alone.wait()
    summary = quick_build(digits, *SETTINGS)
    order.append("built")
    collector.join()
    assert order == ["collected", "built"]
    assert agrees(root).snapshot_id == summary["snapshot_id"]
