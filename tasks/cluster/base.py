"""Run jobs as Prefect tasks on the workers of a Dask or Ray cluster.

A task costs about a third of a second, so jobs are few and fat. The driver keeps a bounded number of them in flight, and
takes their records as they finish. A worker that dies costs the job that it was doing, which the cluster gives to another
one; a job that ends its worker MAX_ATTEMPTS times ends the build.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId, TaskRunFilterState, TaskRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Crashed
from prefect.task_runners import TaskRunner

from indexmill.configs.models import RunConfig
from indexmill.storage.errors import DamagedFile, IndexmillError
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.stopping import STOP_GRACE_SECONDS, raise_if_stopping
from indexmill.tasks.cluster.worker import WorkerCheck, WorkerSetup, make_setup, run_job_here
from indexmill.tasks.progress import Advance, ignore_progress
from indexmill.tasks.runner import NO_RESOURCES, JobT, RecordT, Resources, Work
from indexmill.tasks.stage_policy import get_task_options

MAX_ATTEMPTS = 3  # workers that one job may end; a Dask scheduler that runs already has a setting of its own
POLL_SECONDS = 0.1
CONNECT_SECONDS = 60
QUEUED_PER_SLOT = 2  # jobs in flight per slot, so that no worker waits for the driver


class JobLost(IndexmillError):
    """A job ended every worker that tried it."""


class ClusterLost(IndexmillError, ConnectionError):
    """The connection to the cluster ended."""


@task(task_run_name="{name}", **get_task_options("job"))
def run_job(name: str, run: Callable[[Root, Any, Advance], Any], setup: WorkerSetup, job: Any) -> Any:  # noqa: ARG001 (the run's name)
    """Do one job on a worker."""
    return run_job_here(run, setup, job)


class ClusterRunner(ABC):
    """Runs jobs on a cluster.

    Args:
        task_runner: Prefect's task runner, started.
        config: The section `run`.
        root: The root of the build.
        context: The context of the flow.
    """

    is_local = False

    def __init__(self, task_runner: TaskRunner[Any], config: RunConfig, root: Root, context: contextvars.Context) -> None:
        self.config = config
        self._task_runner, self._context = task_runner, context
        self._setup = make_setup(root)
        self._final_states: dict[uuid.UUID, State[Any]] = {}  # of the task runs, as far as this process knows

    @abstractmethod
    def count_slots(self, resources: Resources) -> int:
        """Return how many jobs the cluster can run at the same time."""

    @abstractmethod
    def check_workers(self, check: WorkerCheck) -> list[str]:
        """Run a check on every worker, and return what is wrong."""

    @abstractmethod
    def _get_options(self, resources: Resources) -> Any:
        """Return a context manager in which a task is submitted with these resources."""

    @abstractmethod
    def _wait(self, futures: Sequence[PrefectFuture[Any]]) -> list[PrefectFuture[Any]]:
        """Wait a moment, and return the futures that are done."""

    @abstractmethod
    def _release(self, future: PrefectFuture[Any]) -> None:
        """Let the cluster forget a result."""

    @abstractmethod
    def _cancel(self, futures: Sequence[PrefectFuture[Any]]) -> None:
        """Cancel the tasks that have not started."""

    @abstractmethod
    def _explain_loss(self, error: BaseException) -> str:
        """Return how a job's workers were lost; empty for an error of the job itself."""

    def share(self, root: Root, path: Path, key: str) -> FileRef:
        """Move a temporary file to where workers read it."""
        target = root.jobs(key) / path.name
        with root.replace_atomically(target) as temporary:
            path.rename(temporary)
        return root.make_ref(target)

    def map(
        self,
        root: Root,
        work: Work[JobT, RecordT],
        jobs: Iterable[JobT],
        resources: Resources = NO_RESOURCES,
        advance: Advance = ignore_progress,
    ) -> Iterator[tuple[JobT, RecordT]]:
        """Yield each job with its record, as they finish.

        Raises:
            JobLost: A job ended every worker that tried it.
            ClusterLost: The connection to the cluster ended.
            Stopped: A stop was requested; what the workers have finished is kept.
        """
        self._setup = self._setup.for_next_stage()
        source, pending = iter(jobs), dict[PrefectFuture[Any], JobT]()
        capacity = QUEUED_PER_SLOT * max(1, self.count_slots(resources))
        where = f"during: {work.name}"
        try:
            while True:
                for job in itertools.islice(source, capacity - len(pending)):
                    pending[self._context.run(self._submit, work, job, resources)] = job
                if not pending:
                    return
                done = self._wait(list(pending))
                if len(done) == len(pending):
                    root.store.refresh(root.path)  # workers have written to it
                elif done:
                    root.refresh_jobs()  # nothing else is read before the last job has ended
                for future in done:
                    job = pending.pop(future)
                    record = self._get_record(root, future, job)
                    advance(job.items)
                    yield job, record
                    raise_if_stopping(where)
                raise_if_stopping(where, grace_seconds=STOP_GRACE_SECONDS)
        finally:
            if pending:
                self._cancel(list(pending))
                self._final_states |= {future.task_run_id: Cancelled(message="the build has ended") for future in pending}

    def close(self) -> None:
        """End the task runs that the server still shows as running: a worker that is killed cannot report its end."""
        with suppress(Exception):  # the server may be gone, and then nothing shows them
            self._context.run(self._end_runs)

    def _end_runs(self) -> None:
        states = list(self._final_states.items())
        with get_client(sync_client=True) as client:
            for start in range(0, len(states), 100):
                batch = dict(states[start : start + 100])
                for run in client.read_task_runs(task_run_filter=_filter_unfinished(list(batch))):
                    client.set_task_run_state(run.id, batch[run.id], force=True)

    def _submit(self, work: Work[JobT, RecordT], job: JobT, resources: Resources) -> PrefectFuture[Any]:
        parameters = {"name": job.name, "run": work.run, "setup": self._setup, "job": job}
        with self._get_options(resources):
            return self._task_runner.submit(_get_task(work.name), parameters)

    def _get_record(self, root: Root, future: PrefectFuture[Any], job: JobT) -> Any:
        final_state: State[Any] = Crashed(message="its workers were lost")
        try:
            record = future.result()
            final_state = Completed()
            return record
        except IndexmillError as error:
            if isinstance(error, DamagedFile):
                root.store.refresh(root.path)  # the worker has removed the file, so that this process makes it again
            raise
        except Exception as error:
            if loss := self._explain_loss(error):
                raise JobLost(
                    "a job ends every worker that runs it",
                    where=job.name,
                    got=loss,
                    next_step="look at the workers' logs; most often it needs more memory than a worker has. Finished jobs are kept",
                ) from None
            raise
        finally:
            self._final_states[future.task_run_id] = final_state
            self._release(future)


def _filter_unfinished(ids: list[uuid.UUID]) -> TaskRunFilter:
    states = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.SCHEDULED]))
    return TaskRunFilter(id=TaskRunFilterId(any_=ids), state=states)


@cache
def _get_task(name: str) -> Task[..., Any]:
    return run_job.with_options(name=name)


def get_worker_count(config: RunConfig) -> int:
    """Return the number of worker processes of a cluster that the build starts."""
    return config.workers or os.cpu_count() or 1
