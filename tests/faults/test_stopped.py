"""A build that is asked to stop, by SIGTERM, by Ctrl-C or by a cancellation in Prefect, ends at its next commit and is Cancelled."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
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
from tests.conftest import Build
from tests.faults.killing import HERE, SETTINGS, agrees, arguments, items, processes_of

OWN_SERVER = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}


def test_sigterm_to_all_of_a_build_stops_it_in_good_order(digits: Path, tmp_path: Path) -> None:
    """Sent to the whole process group, as a terminal or a service manager does, while the first shard of vectors is encoded: that shard is
    committed, the run is Cancelled, the command says what to do, and nothing runs on."""
    root = tmp_path / "root"
    command = [sys.executable, "-m", "indexmill", *arguments(root, digits)]
    process = subprocess.Popen(command, env=OWN_SERVER, cwd=HERE.parents[1], stderr=subprocess.PIPE, text=True, process_group=0)
    assert process.stderr is not None
    said = ""
    while "encoding images" not in said:
        said += (line := process.stderr.readline())
        assert line, said
    os.killpg(process.pid, signal.SIGTERM)
    said += process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "SIGTERM: stopping after the current file; send it again to stop at once\n" in said
    assert re.search(r"stopped by SIGTERM\n  where:    after .*part-00000.parquet\n  got:      finished work is kept", said), said
    assert said.endswith("  next:     run the same command again to continue\n")
    assert processes_of(root) == []
    assert not list((root / "tmp").glob("*-*"))
    with sqlite3.connect(root / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("CANCELLED",)]
    assert len(list(root.glob("embeddings/*/part-*"))) == 1


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Commits]:
    """The commits of a build in this process, which heeds Ctrl-C even where the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Commits(monkeypatch)
    signal.signal(signal.SIGINT, before)


class Commits:
    """Counts them, and sends this process a signal when the one numbered `deadly` begins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.deadly, self.targets, self._commit = 0, list[Path](), atomic.commit
        monkeypatch.setattr(atomic, "commit", self)

    def __call__(self, temporary: Path, target: Path) -> None:
        self.targets.append(target)
        if len(self.targets) == self.deadly:
            signal.raise_signal(signal.SIGINT)
        self._commit(temporary, target)


def test_a_build_may_be_stopped_at_any_commit(
    commits: Commits, undisturbed: dict[str, Any], digits: Path, quick_build: Build, tmp_path: Path
) -> None:
    """By Ctrl-C, at two commits or, at length, at all: that file is there, nothing temporary is, and the next build ends as an undisturbed
    one."""
    quick_build(digits, *SETTINGS)
    count = len(commits.targets)
    assert count > 20
    for number in range(1, count + 1) if "INDEXMILL_SOAK" in os.environ else (count // 4, count - 1):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "root" / "embeddings", root / "embeddings")
        shutil.copytree(tmp_path / "root" / "encoders", root / "encoders")
        commits.deadly, commits.targets = number, []
        with pytest.raises(Stopped, match="SIGINT") as stopped:
            quick_build(digits, *SETTINGS, root=root)
        assert stopped.value.exit_code == 130
        assert (len(commits.targets), stopped.value.where) == (number, f"after {commits.targets[-1]}")
        assert commits.targets[-1].exists(), number
        assert not list((root / "tmp").glob("*-*")), number
        commits.deadly = 0
        summary = quick_build(digits, *SETTINGS, root=root)
        assert items(summary) == items(undisturbed), number
        assert (summary["metrics"], summary["snapshot_id"]) == (undisturbed["metrics"], undisturbed["snapshot_id"]), number
        agrees(root)


@pytest.fixture
def cancelled(server: str, digits: Path, tmp_path: Path) -> Iterator[str]:
    """A run by a real worker that was cancelled in Prefect when its first vectors had been committed: the state that it ended in."""
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
            until(lambda: list(root.glob("embeddings/*/part-*")))
            client.set_flow_run_state(run.id, Cancelling())
            until(lambda: client.read_flow_run(run.id).state.is_final())
        finally:
            worker.send_signal(signal.SIGINT)
            worker.wait(timeout=60)
        yield client.read_flow_run(run.id).state.name


def until(happened: Callable[[], object]) -> None:
    """Wait for it, two minutes at most."""
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_that_is_cancelled_in_prefect_is_cancelled_and_keeps_what_it_finished(cancelled: str, tmp_path: Path) -> None:
    """Neither Crashed, though the worker ends its process by SIGTERM, nor Failed; the vectors of the shards that were done are there."""
    assert cancelled == "Cancelled"
    assert Snapshots(Root(tmp_path / "root"), "demo-images").get_live_id() is None
    assert not list((tmp_path / "root" / "tmp").glob("*-*"))
    assert list(tmp_path.glob("root/embeddings/*/part-*"))


def test_a_build_that_waits_for_others_is_stopped_at_once(server: str, digits: Path, tmp_path: Path) -> None:
    """A collector has the root alone, for long: the first signal ends the build that waits for it."""
    from indexmill.flows.build_index import build_index

    with Root(tmp_path / "root").hold_exclusive("indexmill gc"):
        signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, 1.5)
        with pytest.raises(Stopped, match="SIGTERM") as stopped:
            build_index("demo-images", str(tmp_path / "root"), [f"dataset.path={digits}", *SETTINGS])
    assert stopped.value.where == "at once"


@pytest.fixture
def asked() -> Iterator[None]:
    """Somebody has asked this process to stop."""
    stopping.request_stop(signal.SIGTERM)
    yield
    stopping.clear_stop_request()


def test_a_commit_is_whole_before_it_heeds(asked: None, root: Root) -> None:
    """The file is in its place when Stopped is raised."""
    with pytest.raises(Stopped, match="SIGTERM") as raised:
        root.scratch.write_text(root.path / "file", "text")
    assert raised.value.exit_code == 143
    assert (root.path / "file").read_text() == "text"


def test_long_work_heeds_when_patience_is_over(asked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work between two commits goes on for 20 seconds, and then ends too: a worker of Prefect's kills after 30."""
    now = time.monotonic()
    with track("work", 3) as advance:
        advance(1)
        monkeypatch.setattr(time, "monotonic", lambda: now + 19.9)
        advance(1)
        monkeypatch.setattr(time, "monotonic", lambda: now + 20.1)
        with pytest.raises(Stopped, match="during: work"):
            advance(1)
