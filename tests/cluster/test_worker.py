"""The root that a worker keeps open between the jobs of a build, in a real object store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from threading import Barrier, Thread

import pytest

from indexmill.storage.object_client import ObjectClient
from indexmill.storage.root import Root
from indexmill.tasks.cluster.worker import WorkerSetup, make_setup, run_job_here
from indexmill.tasks.progress import Advance
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
