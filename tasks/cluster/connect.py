"""Open the runner of a build: the local one, or a cluster whose workers have been checked."""

from __future__ import annotations

import contextvars
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec

from prefect.settings import PREFECT_API_URL, temporary_settings

from indexmill.configs.models import RunConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.cluster.base import ClusterRunner
from indexmill.tasks.cluster.worker import WorkerCheck, get_versions, make_setup
from indexmill.tasks.progress import track
from indexmill.tasks.runner import LOCAL_RUNNER, Runner

PACKAGES = {"dask": "prefect_dask", "ray": "prefect_ray"}


@contextmanager
def open_runner(config: RunConfig, root: Root, get_api_url: Callable[[], str]) -> Iterator[Runner]:
    """Yield the runner of a build. Must be called within its flow, outside of its tasks.

    Args:
        config: The section `run` of the pipeline.
        root: The root of the build.
        get_api_url: Returns the address of the Prefect server of the build, which workers report to.

    Raises:
        InputError: The cluster cannot be reached, or its workers cannot work for this build.
    """
    if config.runner == "local":
        yield LOCAL_RUNNER
        return
    # Tasks on the workers belong to the flow: Prefect would send the parameters of the stage's task along, which holds
    # a process. The server's address is part of the context too; without it every worker would start a server.
    api_url = get_api_url()
    with temporary_settings({PREFECT_API_URL: api_url}):
        context = contextvars.copy_context()
    with ExitStack() as stack:
        with track(f"connecting to {config.runner}", 1) as advance:
            runner = stack.enter_context(_open_cluster(config, root, context))
            _check_workers(runner, root, api_url)
            advance(1)
        yield runner


@contextmanager
def _open_cluster(config: RunConfig, root: Root, context: contextvars.Context) -> Iterator[ClusterRunner]:
    if find_spec(PACKAGES[config.runner]) is None:
        raise InputError(
            f"the runner {config.runner} needs more packages",
            where="run.runner",
            expected=f"the package {PACKAGES[config.runner]}",
            got="it is not installed",
            next_step=f"pip install 'indexmill[{config.runner}]' -c constraints.txt",
        )
    with ExitStack() as stack:
        if config.runner == "dask":
            from indexmill.tasks.cluster.dask_runner import open_dask

            runner: ClusterRunner = stack.enter_context(open_dask(config, root, context))
        else:
            from indexmill.tasks.cluster.ray_runner import open_ray

            runner = stack.enter_context(open_ray(config, root, context))
        stack.callback(runner.close)
        yield runner


def _check_workers(runner: ClusterRunner, root: Root, api_url: str) -> None:
    """Raise InputError if a worker cannot work for this build."""
    nonce = uuid.uuid4().hex
    path = root.jobs(f"check-{nonce}") / "nonce.txt"
    root.scratch.write_text(path, nonce)
    try:
        check = WorkerCheck(make_setup(root), path.relative_to(root.path).as_posix(), nonce, api_url, get_versions())
        problems = runner.check_workers(check)
    finally:
        root.remove_jobs(path.parent.name)
    if problems:
        raise InputError(
            "a worker cannot work for this build",
            where=f"run.address = {runner.config.address or 'a cluster of its own'}",
            expected="a root that all machines reach, the same versions, and a Prefect server that workers can reach",
            got="; ".join(sorted(set(problems))[:3]),
            next_step="mount the root at the same path everywhere, or use an object store and give workers its credentials;"
            " install the same versions, and set PREFECT_API_URL to an address of a server that the workers reach",
        )
