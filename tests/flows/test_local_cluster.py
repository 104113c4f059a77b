"""`make cluster`: what it starts works, and every way of ending it leaves nothing behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from indexmill.storage.object_client import ObjectClient
from tests.flows.postgres import find_free_port
from tests.flows.test_make_up import restore_ctrl_c

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


class Cluster:
    """A running `make cluster` in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path) -> None:
        self.log, installed = folder / "log", folder / "installed"  # newer than its prerequisites: nothing to install
        installed.touch()
        ports = [f"DASK_PORT={find_free_port()}", f"S3_PORT={find_s3_port()}"]
        command = ["make", "cluster", f"INSTALLED={installed}", f"BIN={Path(sys.executable).parent}", f"ROOT={folder / 'root'}", *ports]
        with self.log.open("wb") as log:
            self.make = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=restore_ctrl_c,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 300
        while "Ready" not in self.log.read_text():
            assert time.monotonic() < deadline and self.make.poll() is None, self.log.read_text()
            time.sleep(0.2)

    def list_processes(self) -> list[psutil.Process]:
        return psutil.Process(self.make.pid).children(recursive=True)


def find_s3_port() -> int:
    """A free port whose gRPC port, 10,000 above, exists; the three after it are most likely free, too."""
    while (port := find_free_port()) > 55_000:
        continue
    return port


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    processes = []
    try:
        cluster.wait_until_ready()
        processes = cluster.list_processes()
        yield cluster
    finally:
        alive = [process for process in processes if process.is_running()]
        for process in alive:
            process.kill()
        cluster.make.kill()
        cluster.make.wait()


@pytest.mark.parametrize("end", ["Ctrl-C", "SIGTERM", "a dead scheduler"])
def test_a_cluster_is_ready_when_it_says_so_and_leaves_nothing_behind(cluster: Cluster, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed variables reach the store, the printed address two workers. All processes end: by a signal, or with one of them."""
    from distributed import Client

    printed = cluster.log.read_text()
    for name, value in (part.split("=", 1) for part in shlex.split(re.findall(r"export (.*)", printed)[0])):
        monkeypatch.setenv(name, value)
    assert list(ObjectClient("s3://demo/indexes").list()) == []
    with Client(re.findall(r"--runner-address (\S+)", printed)[0], set_as_default=False) as client:
        assert len(client.scheduler_info()["workers"]) == 2
    processes = cluster.list_processes()
    sockets = [socket for process in processes for socket in process.net_connections("tcp") if socket.status == psutil.CONN_LISTEN]
    assert {socket.laddr.ip for socket in sockets} == {"127.0.0.1"}
    if end == "Ctrl-C":
        os.killpg(cluster.make.pid, signal.SIGINT)
    elif end == "SIGTERM":
        cluster.make.terminate()
    else:
        next(process for process in processes if "distributed.cli.dask_scheduler" in process.cmdline()).kill()
    code = cluster.make.wait(300)
    assert psutil.wait_procs(processes, timeout=300)[1] == []
    if end == "a dead scheduler":
        assert code == 2
        assert "the scheduler has ended" in cluster.log.read_text()
    assert "Traceback" not in cluster.log.read_text()
