"""The root that a worker keeps open between the jobs of a build, in a real object store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from uuid import uuid4

import pytest

from indexmill.configs.models import RunConfig
from indexmill.storage.errors import DamagedFile
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.object_store import ObjectStore
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.tasks.cluster.base import ClusterRunner
from indexmill.tasks.cluster.worker import WorkerCheck, WorkerSetup, make_setup, run_job_here
from indexmill.tasks.progress import Advance
from indexmill.tasks.runner import Resources, Work
from tests.storage.test_object_store import OpenMachine


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a client was asked for each of these."""
    counts: Counter[str] = Counter()
    for name in ("check_conditional_writes", "list", "info"):
        method = getattr(ObjectClient, name)

        def count(self: ObjectClient, *arguments: str, name: str = name, method: object = method) -> object:
            counts[name] += 1
            return method(self, *arguments)  # type: ignore[operator]

        monkeypatch.setattr(ObjectClient, name, count)
    return counts


def write(root: Root, name: str, advance: Advance) -> str:
    """Write a file of the study `jobs`."""
    root.scratch.write_text(root.study("jobs") / name, name)
    return name


def read(root: Root, name: str, advance: Advance) -> str | None:
    """Read a file of that study; None when the root does not have it."""
    path = root.fetch(root.study("jobs") / name)
    return path.read_text() if root.exists(path) else None


def list_names(root: Root, job: None, advance: Advance) -> list[str]:
    return [path.name for path in root.list_files(root.study("jobs"), "*.txt")]


def test_a_worker_probes_the_store_once_per_build_and_lists_it_once_per_stage(open_machine: OpenMachine, requests: Counter[str]) -> None:
    """Two jobs of one stage, one of the next, one of another build."""
    root = open_machine("worker")
    setup = make_setup(root).for_next_stage()
    requests.clear()
    assert run_job_here(write, setup, "a.txt") == "a.txt"
    assert run_job_here(write, setup, "b.txt") == "b.txt"
    assert requests == {"check_conditional_writes": 1, "list": 1}
    assert run_job_here(list_names, setup.for_next_stage(), None) == ["a.txt", "b.txt"]
    assert requests == {"check_conditional_writes": 1, "list": 2}
    run_job_here(write, make_setup(root), "c.txt")
    assert requests == {"check_conditional_writes": 2, "list": 3}


def test_a_job_finds_what_others_have_written_since_the_listing(open_machine: OpenMachine, requests: Counter[str]) -> None:
    """What a driver shares for the next job of a stage, and a file that a job of the same worker removed."""
    driver = open_machine("driver")
    setup = make_setup(open_machine("worker"))
    assert run_job_here(read, setup, "a.txt") is None
    driver.scratch.write_text(driver.study("jobs") / "a.txt", "new")
    requests.clear()
    assert run_job_here(read, setup, "a.txt") == "new"
    assert requests == {"info": 1}


def test_jobs_in_threads_of_one_worker_keep_their_temporaries(root: Root) -> None:
    """The first job to end does not remove those of the other."""
    setup, begun, ended, kept = make_setup(root), Barrier(2), Barrier(2), list[bool]()

    def wait_for_other(root: Root, job: str, advance: Advance) -> None:
        (root.scratch.folder / "file").write_text(job)
        begun.wait(60)
        if job == "long":
            ended.wait(60)
            kept.append((root.scratch.folder / "file").read_text() == "long")

    def run_short() -> None:
        run_job_here(wait_for_other, setup, "short")
        ended.wait(60)

    threads = [Thread(target=run_short), Thread(target=run_job_here, args=(wait_for_other, setup, "long"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept == [True]
    assert not list(root.tmp.iterdir())


def test_a_failed_opening_is_tried_again(tmp_path: Path) -> None:
    """A root that cannot be opened is not kept."""
    (tmp_path / "root").write_text("a file")
    setup = WorkerSetup(str(tmp_path / "root"), {}, build="one")
    with pytest.raises(Exception, match="cannot be written"):
        run_job_here(read, setup, "a.txt")
    (tmp_path / "root").unlink()
    assert run_job_here(read, setup, "a.txt") is None


class DoneFuture:
    """The future of a job that `OneWorker` has done."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.task_run_id = uuid4()
        self._error: DamagedFile | None = None
        try:
            self._record = call()
        except DamagedFile as error:
            self._error = error

    def result(self) -> Any:
        if self._error:
            raise self._error
        return self._record


class OneWorker(ClusterRunner):
    """A cluster of one worker, which is this process; jobs end one by one, in their order."""

    def count_slots(self, resources: Resources) -> int:
        return 1

    def check_workers(self, check: WorkerCheck) -> list[str]:
        return []

    def _get_options(self, resources: Resources) -> Any: ...

    def _wait(self, futures: Sequence[Any]) -> list[Any]:
        return list(futures[:1])

    def _release(self, future: Any) -> None: ...

    def _cancel(self, futures: Sequence[Any]) -> None: ...

    def _explain_loss(self, error: BaseException) -> str:
        return ""

    def _submit(self, work: Work[Any, Any], job: Any, resources: Resources) -> Any:
        return DoneFuture(partial(run_job_here, work.run, self._setup, job))


@dataclass(frozen=True)
class WriteJob:
    """Write a file with this name for the driver, and one for good."""

    name: str
    items: int = 1


def hand_over(root: Root, job: WriteJob, advance: Advance) -> FileRef:
    write(root, job.name, advance)
    root.scratch.write_text(root.jobs("key") / job.name, job.name)
    return root.make_ref(root.jobs("key") / job.name)


def fail(root: Root, job: WriteJob, advance: Advance) -> None:
    raise DamagedFile("a file is damaged")


def make_runner(root: Root) -> OneWorker:
    task_runner: Any = None
    return OneWorker(task_runner, RunConfig(), root, copy_context())


def test_the_driver_lists_the_root_once_per_stage(open_machine: OpenMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each job it reads what the job has handed over; after the last one it sees all files."""
    driver, names = open_machine("driver"), ["a.txt", "b.txt", "c.txt"]
    runner = make_runner(driver)
    run_job_here(list_names, runner._setup, None)  # the worker opens the root
    refreshed, refresh = list[Path](), ObjectStore.refresh

    def note(self: ObjectStore, folder: Path) -> None:
        if self is driver.store:
            refreshed.append(folder.relative_to(driver.path))
        refresh(self, folder)

    monkeypatch.setattr(ObjectStore, "refresh", note)
    results = runner.map(driver, Work("write", hand_over), [WriteJob(name) for name in names])
    assert [driver.file(ref).read_text() for _, ref in results] == names
    assert refreshed == [Path("jobs"), Path("jobs"), Path()]
    assert [path.name for path in driver.list_files(driver.study("jobs"), "*")] == names


def test_the_driver_sees_that_a_worker_has_removed_a_damaged_file(open_machine: OpenMachine) -> None:
    """It lists all files again, and so makes the file again instead of relying on it."""
    driver, other = open_machine("driver"), open_machine("other")
    path = driver.study("jobs") / "a.txt"
    driver.scratch.write_text(path, "damaged")
    other.remove(other.study("jobs") / "a.txt")
    with pytest.raises(DamagedFile):
        list(make_runner(driver).map(driver, Work("fail", fail), [WriteJob("first"), WriteJob("second")]))
    assert not driver.exists(path)
