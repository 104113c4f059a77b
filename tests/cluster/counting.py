"""Jobs for tests, in a module that workers can import."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import httpx
from prefect.settings import get_current_settings

from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.progress import Advance


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
    """Note the process, and kill it."""
    with (root.study("count") / f"runs-{job.number}.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)
