"""A Dask cluster of two worker processes on 127.0.0.1 (in the quick tests, one), for all tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow

from indexmill.configs.models import RunConfig
from indexmill.storage.root import Root
from indexmill.tasks.cluster.connect import open_runner
from indexmill.tasks.runner import Runner
from tests import examples
from tests.cluster.dying import KILL_FILE, order_kills
from tests.conftest import HOME
from tests.flows.postgres import find_free_port
from tests.storage.object_server import SECRET

REPOSITORY = Path(__file__).parents[2]
DASK = [sys.executable, "-m"]
START_SECONDS = 300


@dataclass(frozen=True)
class DaskCluster:
    """The scheduler's address, and the file that makes workers die (`tests.cluster.dying`)."""

    address: str
    kill_file: Path

    @property
    def settings(self) -> list[str]:
        """The settings of a build on this cluster."""
        return ["run.runner=dask", f"run.address={self.address}"]


@pytest.fixture(scope="package")
def dask_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Start the scheduler and the workers; end them and all their children after this folder's tests: idle, they still compute."""
    folder = tmp_path_factory.mktemp("dask")
    workers = 1 if examples.is_quick else 2  # each takes seconds of imports, and a killed one is started again
    address, kill_file = f"tcp://127.0.0.1:{find_free_port()}", folder / "kill"
    order_kills(kill_file, "", 0)
    environment = os.environ | {
        KILL_FILE: str(kill_file),
        "PYTHONPATH": str(REPOSITORY),
        "PREFECT_HOME": str(HOME),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
        # Credentials of the object store are each machine's own; its address comes from the driver.
        "AWS_ACCESS_KEY_ID": "writer",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "INDEXMILL_CACHE": str(folder / "cache"),
    }
    local = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = ["distributed.cli.dask_scheduler", *local, "--port", address.rpartition(":")[2]]
    worker = ["distributed.cli.dask_worker", address, *local, "--nthreads", "1"]
    worker += ["--preload", "tests.cluster.dying", "--local-directory"]
    commands = [scheduler, *([*worker, str(folder / name)] for name in "ab"[:workers])]
    processes = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"log-{number}").open("wb") as log:
                processes.append(subprocess.Popen([*DASK, *command], env=environment, cwd=REPOSITORY, stdout=log, stderr=log))
        _wait_for_workers(address, workers, folder)
        yield DaskCluster(address, kill_file)
    finally:
        _reap(processes)


@pytest.fixture
def dask_cluster(dask_processes: DaskCluster) -> Iterator[DaskCluster]:
    """The cluster, whose workers stay alive until a test orders otherwise."""
    yield dask_processes
    order_kills(dask_processes.kill_file, "", 0)


def _wait_for_workers(address: str, workers: int, folder: Path) -> None:
    from distributed import Client

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with Client(address, timeout=5, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=START_SECONDS)
                return
        except (OSError, TimeoutError):
            assert time.monotonic() < end, (folder / "log-0").read_text()[-2000:]


def _reap(processes: list[subprocess.Popen[bytes]]) -> None:
    children = [
        child for process in processes if psutil.pid_exists(process.pid) for child in psutil.Process(process.pid).children(recursive=True)
    ]
    for process in reversed(processes):
        process.kill()
        process.wait()
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=60)


_bodies: list[Callable[[], Any]] = []


@flow(name="with-runner")
def run_body() -> Any:
    """Call the body that `run_with` has left. Prefect sends a flow and its parameters to the workers, so there is none here."""
    return _bodies.pop()()


def run_with(config: RunConfig, root: Root, api_url: str, action: Callable[[Runner], Any]) -> Any:
    """Call `action` with the runner of this config, within a flow as builds do."""

    def body() -> Any:
        with open_runner(config, root, lambda: api_url) as runner:
            return action(runner)

    _bodies.append(body)
    return run_body()
