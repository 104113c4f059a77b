"""Jobs for tests, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings

from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.progress import Advance

SHOWN_SECONDS = 120


@dataclass(frozen=True)
class CountJob:
    """Write a file with the job's number."""

    number: int
    items: int = 3

    @property
    def name(self) -> str:
        return f"count {self.number}"


@dataclass(frozen=True)
class Counted:
    """What was written, by whom, and to which Prefect server that process reports."""

    path: str
    process: int
    api_url: str


def count(root: Root, job: CountJob, advance: Advance) -> Counted:
    """Write `studies/count/job-N.txt`, and append a line to `studies/count/runs-N.txt` at every run."""
    with (root.study("count") / f"runs-{job.number}.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    path = root.study("count") / f"job-{job.number}.txt"
    root.scratch.write_text(path, str(job.number))
    return Counted(path.relative_to(root.path).as_posix(), os.getpid(), get_current_settings().api.url or "")


def refuse(root: Root, job: CountJob, advance: Advance) -> None:
    """Raise one of Indexmill's own errors."""
    raise InputError("this job cannot be done", where=job.name, next_step="nothing")


def is_reachable(url: str) -> bool:
    return httpx.get(f"{url}/health").status_code == 200


def die(root: Root, job: CountJob, advance: Advance) -> None:
    """Note the process, and kill it as soon as the Prefect server shows that the job runs."""
    with (root.study("count") / f"runs-{job.number}.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    context = TaskRunContext.get()
    assert context
    wait_until_shown(context.task_run.id)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until_shown(run: UUID) -> None:
    """Wait for the server's record of a task run, which it makes from events that arrive some time after the run began."""
    end = time.monotonic() + SHOWN_SECONDS
    with get_client(sync_client=True) as client:
        while not client.read_task_runs(task_run_filter=TaskRunFilter(id=TaskRunFilterId(any_=[run]))):
            assert time.monotonic() < end, "the server does not show the run"
            time.sleep(0.1)
