"""Run jobs on a Ray cluster, by Prefect's RayTaskRunner."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import Context
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it on import, and would report to its makers
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray
from prefect.futures import PrefectFuture
from prefect_ray.context import remote_options
from prefect_ray.task_runners import RayTaskRunner
from ray.exceptions import NodeDiedError, OutOfMemoryError, RaySystemError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from indexmill.configs.models import RunConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.cluster.base import CONNECT_SECONDS, MAX_ATTEMPTS, POLL_SECONDS, ClusterLost, ClusterRunner, get_worker_count
from indexmill.tasks.cluster.worker import WorkerCheck, check_worker
from indexmill.tasks.runner import Resources


@contextmanager
def open_ray(config: RunConfig, root: Root, context: Context) -> Iterator[RayRunner]:
    """Connect to a Ray cluster, or start one on this machine; yields its runner."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if config.address is None:
        options |= {"num_cpus": get_worker_count(config), "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    task_runner: RayTaskRunner[Any] = RayTaskRunner(address=config.address, init_kwargs=options)
    try:
        task_runner.__enter__()
    except Exception as error:  # Ray raises plain ones, too, as when its processes take more than 30 s to start
        raise InputError(
            "the Ray cluster cannot be used",
            where=f"run.address = {config.address}",
            expected="HOST:6379 on a machine of the cluster, or ray://HOST:10001 from elsewhere",
            got=str(error).strip().splitlines()[0],
            next_step="start one: ray start --head; ray start --address HOST:6379 on the other machines",
        ) from None
    try:
        yield RayRunner(task_runner, config, root, context)
    finally:
        task_runner.__exit__(None, None, None)


class RayRunner(ClusterRunner):
    """Runs jobs on a Ray cluster."""

    def count_slots(self, resources: Resources) -> int:
        """Return the CPUs of the cluster, or how many jobs its GPUs suffice for."""
        available = ray.cluster_resources()
        if not (resources.uses_gpu and self.config.gpus_per_task):
            return int(available.get("CPU", 1))
        slots = int(available.get("GPU", 0) / self.config.gpus_per_task)
        if not slots:
            raise InputError(
                "no worker offers the GPUs that an encoding task needs",
                where="run.gpus_per_task",
                expected=f"a cluster with at least {self.config.gpus_per_task:g} GPUs",
                got=f"{available.get('GPU', 0):g}",
            )
        return slots

    def check_workers(self, check: WorkerCheck) -> list[str]:
        """Run a check on every machine, and return what is wrong."""
        remote_check = ray.remote(num_cpus=0, max_retries=1)(check_worker)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        answers = [
            remote_check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(check) for node in nodes
        ]
        return [answer for answer in map(_get_answer, answers) if answer]

    def _get_options(self, resources: Resources) -> AbstractContextManager[Any]:
        options: dict[str, Any] = {"max_retries": MAX_ATTEMPTS - 1, "num_cpus": 1}
        if resources.uses_gpu and self.config.gpus_per_task:
            options["num_gpus"] = self.config.gpus_per_task
        return remote_options(**options)

    def _wait(self, futures: Sequence[PrefectFuture[Any]]) -> list[PrefectFuture[Any]]:
        by_ref = {_unwrap(future): future for future in futures}
        done, _ = ray.wait(list(by_ref), num_returns=1, timeout=POLL_SECONDS)
        return [by_ref[ref] for ref in done]

    def _release(self, future: PrefectFuture[Any]) -> None:
        """Do nothing: Ray forgets a result when its last reference is gone."""

    def _cancel(self, futures: Sequence[PrefectFuture[Any]]) -> None:
        for future in futures:
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(_unwrap(future), force=True)

    def _explain_loss(self, error: BaseException) -> str:
        if isinstance(error, RaySystemError):
            raise ClusterLost("the connection to the Ray cluster ended", got=str(error), next_step="run the build again") from None
        lost = isinstance(error, WorkerCrashedError | NodeDiedError | OutOfMemoryError)
        return f"{MAX_ATTEMPTS} attempts: {str(error).strip().splitlines()[0]}" if lost else ""


def _get_answer(ref: Any) -> str:
    try:
        return str(ray.get(ref, timeout=CONNECT_SECONDS))
    except Exception as error:
        return f"the check failed: {str(error).strip().splitlines()[-1]}"


def _unwrap(future: PrefectFuture[Any]) -> Any:
    return future.wrapped_future  # type: ignore[attr-defined]
