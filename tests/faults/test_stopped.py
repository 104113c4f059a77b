"""A build that is stopped by SIGTERM, Ctrl-C or a cancellation in Prefect ends at its next commit in the state Cancelled."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexmill.storage import atomic, stopping
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.storage.stopping import Stopped
from indexmill.tasks.progress import track
from tests.conftest import SETTINGS, Build, FinishedBuild, copy_encoded_digits
from tests.faults.killing import HERE, arguments, check_consistency, list_processes, read_items

OWN_SERVER = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


@pytest.mark.slow
def test_sigterm_to_the_process_group_stops_a_build_cleanly(digits: Path, tmp_path: Path) -> None:
    """As a service manager sends it, while the first chunk is encoded: that chunk is committed, the run is Cancelled, the message has the
    next step, and no process is left."""
    root = tmp_path / "root"
    command = [sys.executable, "-m", "indexmill", *arguments(root, digits)]
    process = subprocess.Popen(command, env=OWN_SERVER, cwd=HERE.parents[1], stderr=subprocess.PIPE, text=True, process_group=0)
    assert process.stderr is not None
    output = ""
    while "encoding images" not in output:
        output += (line := process.stderr.readline())
        assert line, output
    os.killpg(process.pid, signal.SIGTERM)
    output += process.communicate(timeout=600)[1]
    assert process.returncode == 143, output
    assert "SIGTERM: stopping after the current file; send it again to stop at once\n" in output
    assert re.search(r"stopped by SIGTERM\n  where:    after .*part-00000.parquet\n  got:      finished work is kept", output), output
    assert output.endswith("  next:     run the same command again to continue\n")
    assert list_processes(root) == []
    assert not list((root / "tmp").glob("*-*"))
    with sqlite3.connect(root / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("CANCELLED",)]
    assert len(list(root.glob("embeddings/*/part-*"))) == 1


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Commits]:
    """The commits of a build in this process, where Ctrl-C works even if the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Commits(monkeypatch)
    signal.signal(signal.SIGINT, before)


class Commits:
    """Counts commits, and sends this process SIGINT when the one numbered `stop_at` begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stop_at, self.targets, self.in_main_thread, self._commit = 0, list[Path](), list[bool](), atomic.commit
        monkeypatch.setattr(atomic, "commit", self)

    def __call__(self, temporary: Path, target: Path) -> None:
        self.targets.append(target)
        self.in_main_thread.append(threading.current_thread() is threading.main_thread())
        if len(self.targets) == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        self._commit(temporary, target)


@pytest.mark.slow
def test_a_build_may_be_stopped_at_any_commit(
    commits: Commits, finished_build: FinishedBuild, undisturbed: dict[str, Any], digits: Path, quick_build: Build, tmp_path: Path
) -> None:
    """By Ctrl-C, at two commits or, with INDEXMILL_SOAK, at all: that file is there, nothing temporary is, and the next build ends like an
    undisturbed one."""
    quick_build(digits, *SETTINGS)
    # Python handles signals in the main thread, which waits while other threads commit shards.
    numbers = [number for number, is_main in enumerate(commits.in_main_thread, 1) if is_main]
    assert len(numbers) > 15
    for number in numbers if "INDEXMILL_SOAK" in os.environ else (numbers[len(numbers) // 4], numbers[-2]):
        root = tmp_path / str(number)
        copy_encoded_digits(finished_build, root)
        commits.stop_at, commits.targets = number, []
        with pytest.raises(Stopped, match="SIGINT") as stopped:
            quick_build(digits, *SETTINGS, root=root)
        assert stopped.value.exit_code == 130
        assert (len(commits.targets), stopped.value.where) == (number, f"after {commits.targets[-1]}")
        assert commits.targets[-1].exists(), number
        assert not list((root / "tmp").glob("*-*")), number
        commits.stop_at = 0
        summary = quick_build(digits, *SETTINGS, root=root)
        assert read_items(summary) == read_items(undisturbed), number
        assert (summary["metrics"], summary["snapshot_id"]) == (undisturbed["metrics"], undisturbed["snapshot_id"]), number
        check_consistency(root)


@pytest.fixture
def cancelled(server: str, digits: Path, tmp_path: Path) -> Iterator[str]:
    """The final state of a worker's run that was cancelled in Prefect after its first commit of vectors."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Cancelling

    root, parameters = tmp_path / "root", {"settings": [f"dataset.path={digits}", *SETTINGS, "encoder.chunk_rows=5"]}
    environment = os.environ | {"INDEXMILL_ROOT": str(root), "PYTHONPATH": str(HERE.parents[1])}
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="stopped", type="process"))
        deployment = client.create_deployment(
            client.create_flow_from_name("build-index"), "stopped",
            entrypoint="indexmill.flows.build_index.build_index", path=str(HERE.parents[1]),
            parameters={"config": "demo-images", **parameters}, work_pool_name="stopped",
        )  # fmt: skip
        run = client.create_flow_run_from_deployment(deployment)
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "stopped"], env=environment, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests were started in the background
        )  # fmt: skip
        try:
            wait_until(lambda: list(root.glob("embeddings/*/part-*")))
            client.set_flow_run_state(run.id, Cancelling())
            wait_until(lambda: client.read_flow_run(run.id).state.is_final())
        finally:
            worker.send_signal(signal.SIGINT)
            worker.wait(timeout=600)
        yield client.read_flow_run(run.id).state.name


def wait_until(is_true: Callable[[], object]) -> None:
    """Wait for a condition, ten minutes at most."""
    deadline = time.monotonic() + 600
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_is_cancelled_in_prefect_keeps_its_finished_work(cancelled: str, tmp_path: Path) -> None:
    """It is neither Crashed, although the worker ends its process by SIGTERM, nor Failed; the finished chunks are stored."""
    assert cancelled == "Cancelled"
    assert Snapshots(Root(tmp_path / "root"), "demo-images").get_live_id() is None
    assert not list((tmp_path / "root" / "tmp").glob("*-*"))
    assert list(tmp_path.glob("root/embeddings/*/part-*"))


def test_a_build_that_waits_for_gc_is_stopped_at_once(server: str, digits: Path, tmp_path: Path) -> None:
    """While garbage collection holds the root, the first signal ends the waiting build."""
    from indexmill.flows.build_index import build_index

    def stop_once_it_waits(*_: object) -> None:
        if stopping.can_stop_immediately():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGALRM, stop_once_it_waits)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with Root(tmp_path / "root").hold_exclusive("indexmill gc"), pytest.raises(Stopped, match="SIGTERM") as stopped:
            build_index("demo-images", str(tmp_path / "root"), [f"dataset.path={digits}", *SETTINGS])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped.value.where == "at once"


@pytest.fixture
def stop_request() -> Iterator[None]:
    """A request to stop this process."""
    stopping.request_stop(signal.SIGTERM)
    yield
    stopping.clear_stop_request()


def test_a_commit_is_finished_before_a_stop(stop_request: None, root: Root) -> None:
    """The file exists when Stopped is raised."""
    with pytest.raises(Stopped, match="SIGTERM") as raised:
        root.scratch.write_text(root.path / "file", "text")
    assert raised.value.exit_code == 143
    assert (root.path / "file").read_text() == "text"


def test_long_work_stops_after_20_seconds(stop_request: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work between two commits continues for 20 seconds at most, because a Prefect worker kills after 30."""
    assert stopping._stop_request
    now = stopping._stop_request[1]
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with track("work", 3) as advance:
        advance(1)
        monkeypatch.setattr(time, "monotonic", lambda: now + 19.9)
        advance(1)
        monkeypatch.setattr(time, "monotonic", lambda: now + 20.1)
        with pytest.raises(Stopped, match="during: work"):
            advance(1)
