"""Run jobs on a Dask cluster, by Prefect's DaskTaskRunner."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import Context
from typing import Any

from dask import config as dask_config
from dask.base import annotate
from distributed import CancelledError, LocalCluster
from distributed.scheduler import KilledWorker
from prefect.futures import PrefectFuture
from prefect_dask.task_runners import DaskTaskRunner

from indexmill.configs.models import RunConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.cluster.base import CONNECT_SECONDS, MAX_ATTEMPTS, POLL_SECONDS, ClusterLost, ClusterRunner, get_worker_count
from indexmill.tasks.cluster.worker import WorkerCheck, check_worker
from indexmill.tasks.runner import Resources

# What Dask's processes do while they wait, by default up to a hundred times a second: with these settings two workers and the
# driver cost 0.016 CPU seconds per second instead of 0.086. Their memory is still watched.
IDLE_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.cycle": "10s",
    "distributed.admin.system-monitor.interval": "5s",
}


@contextmanager
def open_dask(config: RunConfig, root: Root, context: Context) -> Iterator[DaskRunner]:
    """Connect to a Dask scheduler, or start a cluster on this machine; yields its runner."""
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": MAX_ATTEMPTS - 1,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    } | IDLE_SETTINGS
    logging.getLogger("distributed").setLevel(logging.ERROR)  # of this process; workers write their own logs
    with dask_config.set(settings):
        task_runner = DaskTaskRunner(address=config.address) if config.address else _make_local_cluster(config, root)
        with task_runner:
            yield DaskRunner(_connect(task_runner, config), config, root, context)


def _make_local_cluster(config: RunConfig, root: Root) -> DaskTaskRunner:
    options: dict[str, Any] = {
        "n_workers": get_worker_count(config),
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": None,
        "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},  # of its plain HTTP server, which has no other name
        "local_directory": str(root.scratch.folder / "dask"),
    }
    return DaskTaskRunner(cluster_class=LocalCluster, cluster_kwargs=options)


def _connect(task_runner: DaskTaskRunner, config: RunConfig) -> DaskTaskRunner:
    try:
        task_runner.client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            "the Dask cluster cannot be used",
            where=f"run.address = {config.address}",
            expected="a scheduler with at least one worker, such as tcp://HOST:8786",
            got=str(error),
            next_step="start one: dask scheduler; dask worker tcp://HOST:8786 (`make cluster` starts one on this machine)",
        ) from None
    return task_runner


class DaskRunner(ClusterRunner):
    """Runs jobs on a Dask cluster."""

    _task_runner: DaskTaskRunner

    def count_slots(self, resources: Resources) -> int:
        """Return the threads of all workers, or how many jobs their GPUs suffice for."""
        gpus = self.config.gpus_per_task
        if not (resources.uses_gpu and gpus):
            return sum(self._task_runner.client.nthreads().values())
        workers = self._task_runner.client.scheduler_info(n_workers=-1)["workers"].values()
        slots = sum(int(worker["resources"].get("GPU", 0) / gpus) for worker in workers)
        if not slots:
            raise InputError(
                "no worker offers the GPUs that an encoding task needs",
                where="run.gpus_per_task",
                expected="workers started with --resources GPU=1",
                got=f"{len(workers)} workers without that resource",
            )
        return slots

    def check_workers(self, check: WorkerCheck) -> list[str]:
        """Run a check on every worker, and return what is wrong."""
        answers = self._task_runner.client.run(check_worker, check, on_error="return")
        return [f"{worker}: {answer}" for worker, answer in answers.items() if answer]

    def _get_options(self, resources: Resources) -> AbstractContextManager[Any]:
        gpus = self.config.gpus_per_task if resources.uses_gpu else 0
        return annotate(resources={"GPU": gpus}) if gpus else annotate()

    def _wait(self, futures: Sequence[PrefectFuture[Any]]) -> list[PrefectFuture[Any]]:
        done = [future for future in futures if _unwrap(future).done()]
        if not done:
            time.sleep(POLL_SECONDS)
        return done

    def _release(self, future: PrefectFuture[Any]) -> None:
        _unwrap(future).release()  # else Dask computes it again when the worker that holds it dies

    def _cancel(self, futures: Sequence[PrefectFuture[Any]]) -> None:
        with suppress(Exception):  # the cluster may be gone
            self._task_runner.client.cancel([_unwrap(future) for future in futures], force=True)

    def _explain_loss(self, error: BaseException) -> str:
        if isinstance(error, CancelledError):
            raise ClusterLost("the connection to the Dask cluster ended", got=str(error), next_step="run the build again") from None
        return str(error) if isinstance(error, KilledWorker) else ""


def _unwrap(future: PrefectFuture[Any]) -> Any:
    return future.wrapped_future  # type: ignore[attr-defined]
