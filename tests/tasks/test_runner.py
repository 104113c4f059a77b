"""The local runner: jobs in this process, in order or in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.progress import Advance
from indexmill.tasks.runner import LOCAL_RUNNER, Resources, Work, check_image_root


@dataclass(frozen=True)
class NumberJob:
    number: int

    @property
    def name(self) -> str:
        return str(self.number)

    @property
    def items(self) -> int:
        return self.number


def square(root: Root, job: NumberJob, advance: Advance) -> int:
    advance(job.items)
    return job.number**2


def test_jobs_run_in_order_and_are_taken_one_by_one(root: Root) -> None:
    """The source of jobs is asked for the next one after the last record was used, so that it can learn from that."""
    events: list[str] = []

    def jobs() -> Iterator[NumberJob]:
        for number in range(3):
            events.append(f"job {number}")
            yield NumberJob(number)

    progress: list[int] = []
    for job, record in LOCAL_RUNNER.map(root, Work("square", square), jobs(), advance=progress.append):
        assert record == job.number**2
        events.append(f"record {job.number}")
    assert events == [f"{kind} {number}" for number in range(3) for kind in ("job", "record")]
    assert progress == [0, 1, 2]


def test_threads_run_at_the_same_time_and_each_job_once(root: Root) -> None:
    """Both threads must be in their jobs before either may go on."""
    barrier = threading.Barrier(2, timeout=300)

    def meet(root: Root, job: NumberJob, advance: Advance) -> int:
        barrier.wait()
        return job.number

    jobs = [NumberJob(number) for number in range(6)]
    records = [record for _, record in LOCAL_RUNNER.map(root, Work("meet", meet), jobs, Resources(local_jobs=2))]
    assert sorted(records) == list(range(6))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_of_a_job_is_raised_and_no_later_job_is_taken(root: Root, threads: int) -> None:
    """With threads, those that run already are waited for."""
    taken: list[int] = []

    def fail(root: Root, job: NumberJob, advance: Advance) -> None:
        taken.append(job.number)
        raise InputError("no")

    with pytest.raises(InputError):
        list(LOCAL_RUNNER.map(root, Work("fail", fail), map(NumberJob, range(100)), Resources(local_jobs=threads)))
    assert len(taken) <= threads


def test_a_missing_image_folder_is_an_error_that_names_the_machine(root: Root) -> None:
    """And not one reject per image."""
    check_image_root(str(root.path))
    with pytest.raises(InputError, match="the same path on every machine"):
        check_image_root(str(root.path / "elsewhere"))
