"""Map work over jobs: in this process here, on the workers of a cluster in `indexmill.tasks.cluster`.

A job takes records, keys and digests, and writes files below the root. A job whose files exist already does nothing, so
that it may run again wherever a worker was lost.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from indexmill.storage.contents import is_image_root_there
from indexmill.storage.errors import InputError
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.tasks.progress import Advance, ignore_progress


class Job(Protocol):
    """One piece of work. It is sent to a worker, so it is small and can be pickled."""

    @property
    def name(self) -> str:
        """The job in error messages and in Prefect."""
        ...

    @property
    def items(self) -> int:
        """How many items of the stage's progress it finishes."""
        ...


JobT = TypeVar("JobT", bound=Job)
RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Work(Generic[JobT, RecordT]):
    """What to do with each job.

    Attributes:
        name: The name of its tasks in Prefect.
        run: Does one job: takes the root, the job, and the function that is called with the number of items just
            finished. On a cluster it must be a function at the top level of a module that workers can import.
    """

    name: str
    run: Callable[[Root, JobT, Advance], RecordT]


@dataclass(frozen=True)
class Resources:
    """What a job needs.

    Attributes:
        local_jobs: Jobs that may run at the same time in this process.
        uses_gpu: Reserve the config's `run.gpus_per_task` GPUs on a cluster.
    """

    local_jobs: int = 1
    uses_gpu: bool = False


NO_RESOURCES = Resources()


class Runner(Protocol):
    """Runs jobs somewhere."""

    @property
    def is_local(self) -> bool:
        """Whether jobs run in this process."""
        ...

    def count_slots(self, resources: Resources) -> int:
        """Return how many jobs can run at the same time."""
        ...

    def share(self, root: Root, path: Path, key: str) -> FileRef:
        """Let jobs read a temporary file. Where other machines read it, it moves into the folder `root.jobs(key)`."""
        ...

    def map(
        self,
        root: Root,
        work: Work[JobT, RecordT],
        jobs: Iterable[JobT],
        resources: Resources = NO_RESOURCES,
        advance: Advance = ignore_progress,
    ) -> Iterator[tuple[JobT, RecordT]]:
        """Yield each job with its record, as they finish.

        Args:
            root: The storage root.
            work: What to do.
            jobs: The jobs, which are taken one by one as there is room for them.
            resources: What a job needs.
            advance: Is called with the numbers of items just finished.
        """
        ...


class LocalRunner:
    """Runs jobs in this process, one after another or in threads."""

    is_local = True

    def count_slots(self, resources: Resources) -> int:
        """Return `resources.local_jobs`."""
        return resources.local_jobs

    def share(self, root: Root, path: Path, key: str) -> FileRef:  # noqa: ARG002 (the signature of Runner)
        """Return a reference to the file where it is."""
        return root.make_ref(path, digest=False)

    def map(
        self,
        root: Root,
        work: Work[JobT, RecordT],
        jobs: Iterable[JobT],
        resources: Resources = NO_RESOURCES,
        advance: Advance = ignore_progress,
    ) -> Iterator[tuple[JobT, RecordT]]:
        """Yield each job with its record, as they finish. With one job at a time they keep their order."""
        if resources.local_jobs > 1:
            yield from _map_in_threads(root, work, iter(jobs), resources.local_jobs, advance)
            return
        for job in jobs:
            yield job, work.run(root, job, advance)


LOCAL_RUNNER = LocalRunner()


def check_image_root(image_root: str) -> None:
    """Raise InputError if a worker does not see the folder of the images."""
    if not is_image_root_there(image_root):
        raise InputError(
            "a worker does not see the folder of the images",
            where=f"{platform.node()}: {image_root}",
            expected="the same path on every machine",
            got="no such folder",
            next_step="put the images on a file system that all machines mount at the same path",
        )


def _map_in_threads(
    root: Root, work: Work[JobT, RecordT], jobs: Iterator[JobT], threads: int, advance: Advance
) -> Iterator[tuple[JobT, RecordT]]:
    pending: dict[Future[RecordT], JobT] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix=work.name) as pool:
        while True:
            for job in itertools.islice(jobs, threads - len(pending)):
                # Prefect finds the run that a task belongs to in the context.
                pending[pool.submit(copy_context().run, work.run, root, job, advance)] = job
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
