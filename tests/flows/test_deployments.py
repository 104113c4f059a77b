"""Deployments on a real Prefect server, run by a real worker: what a night is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.root import Root
from storage.snapshots import Snapshots
from tests.conftest import QUICK

REPOSITORY = Path(__file__).parents[2]


def prefect(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """The command `prefect` as a user has it, against the tests' server."""
    environment = {**os.environ, "INDEXMILL_ROOT": str(root), "INDEXMILL_HOME": str(REPOSITORY), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def worked(server: str, digits: Path, tmp_path: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """demo-images deployed, run with changed settings, and done by a worker that takes one run and ends."""
    root = tmp_path / "root"
    Root(root)
    for arguments in (
        ("work-pool", "create", "indexmill", "--type", "process", "--overwrite"),
        ("--no-prompt", "deploy", "--name", "demo-images"),
    ):
        done = prefect(*arguments, root=root)
        assert done.returncode == 0, done.stdout + done.stderr
    settings = [f"dataset.path={digits}", "encoder.precision=float32", *QUICK]
    asked = prefect("deployment", "run", "build-index/demo-images", "--params", json.dumps({"settings": settings}), root=root)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    return root, prefect("worker", "start", "--pool", "indexmill", "--run-once", root=root)


def test_a_deployment_is_run_by_a_worker_and_publishes(worked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """`prefect deployment run build-index/demo-images`: the snapshot is live under the worker's root."""
    root, worker = worked
    assert worker.returncode == 0, worker.stdout + worker.stderr
    snapshots = Snapshots(Root(root), "demo-images")
    assert snapshots.current() is not None, worker.stdout + worker.stderr
    snapshots.verify(snapshots.manifest())
    assert snapshots.manifest().items == 120
