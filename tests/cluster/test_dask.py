"""Jobs on a real Dask cluster of two processes (in the quick tests, one), or on Ray, and what happens when these die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 (its settings)
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

from indexmill.configs.models import RunConfig
from indexmill.flows.local_cluster import build_dask_variables
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.cluster.base import JobLost
from indexmill.tasks.cluster.dask_runner import IDLE_SETTINGS
from indexmill.tasks.runner import Resources, Runner, Work
from tests.cluster.conftest import DaskCluster, run_with
from tests.cluster.counting import Counted, CountJob, count, die, refuse
from tests.cluster.dying import count_open_kills, order_kills

COUNT, DIE = Work("count", count), Work("die", die)


def map_count(root: Root, runner: Runner, jobs: list[CountJob], progress: list[int]) -> dict[int, Counted]:
    """Number -> record."""
    return {job.number: record for job, record in runner.map(root, COUNT, jobs, advance=progress.append)}


def read_runs(root: Root, number: int) -> list[int]:
    """The processes that ran a job, in their order."""
    return [int(line) for line in (root.study("count") / f"runs-{number}.txt").read_text().split()]


def read_states(name: str) -> list[str | None]:
    """The states of the task runs of this name, as the server shows them."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(any_=[name])))
    return [run.state_name for run in runs]


def make_config(cluster: DaskCluster, **settings: Any) -> RunConfig:
    return RunConfig(runner="dask", address=cluster.address, **settings)


def test_dask_knows_the_settings_of_its_processes() -> None:
    """By their names, and as the variables that `make cluster` sets; a name that it does not know would change nothing."""
    variables = build_dask_variables(IDLE_SETTINGS)
    read = dask.config.collect_env(variables)
    for name, value in IDLE_SETTINGS.items():
        assert dask.config.get(name) is not None
        assert dask.config.get(name, config=read) == value


@pytest.fixture
def count_root(root: Root) -> Root:
    root.study("count").mkdir(parents=True)
    return root


def test_a_killed_worker_costs_its_job_only(dask_cluster: DaskCluster, server: str, count_root: Root) -> None:
    """Six jobs, and the worker of the fourth is killed inside it: every record is there, and the other jobs ran once."""
    order_kills(dask_cluster.kill_file, "job-3", 1)
    progress: list[int] = []
    jobs = [CountJob(number) for number in range(6)]
    records = run_with(make_config(dask_cluster), count_root, server, lambda runner: map_count(count_root, runner, jobs, progress))
    assert count_open_kills(dask_cluster.kill_file) == 0
    assert {number: (count_root.path / record.path).read_text() for number, record in records.items()} == {n: str(n) for n in range(6)}
    runs = {number: read_runs(count_root, number) for number in range(6)}
    assert [len(runs[number]) for number in range(6)] == [1, 1, 1, 2, 1, 1]
    assert runs[3][0] != runs[3][1] == records[3].process
    assert sum(progress) == 18
    assert {record.api_url for record in records.values()} == {server}  # no worker started a server of its own
    assert not list((count_root.path / "jobs").glob("*"))


@pytest.mark.slow
def test_a_job_that_kills_three_workers_ends_the_build(dask_cluster: DaskCluster, server: str, count_root: Root) -> None:
    """The error names the job, and the server, which saw it run, shows it as crashed."""
    with pytest.raises(JobLost, match="count 7"):
        run_with(make_config(dask_cluster), count_root, server, lambda runner: list(runner.map(count_root, DIE, [CountJob(7)])))
    assert len(set(read_runs(count_root, 7))) == 3
    assert read_states("count 7") == ["Crashed"]


@pytest.mark.slow
def test_a_job_that_kills_three_workers_of_ray_ends_the_build(server: str, count_root: Root) -> None:
    """On a cluster that the build starts, whose processes end with it."""
    with pytest.raises(JobLost, match=r"count 8(.|\n)*3 attempts"):
        run_with(
            RunConfig(runner="ray", workers=2),
            count_root,
            server,
            lambda runner: list(runner.map(count_root, DIE, [CountJob(8)])),
        )
    assert len(set(read_runs(count_root, 8))) == 3
    assert set(read_states("count 8")) == {"Crashed"}


@pytest.mark.slow
def test_an_error_of_a_job_arrives_as_it_was_raised(dask_cluster: DaskCluster, server: str, count_root: Root) -> None:
    """With its parts, so that the command line can print them; it is not tried again."""
    jobs = [CountJob(1)]
    with pytest.raises(InputError) as raised:
        run_with(make_config(dask_cluster), count_root, server, lambda runner: list(runner.map(count_root, Work("no", refuse), jobs)))
    assert (raised.value.where, raised.value.next_step) == ("count 1", "nothing")


@pytest.mark.slow
def test_a_worker_that_cannot_reach_the_server_is_refused(dask_cluster: DaskCluster, server: str, root: Root) -> None:
    """It would start a server of its own for every task."""
    with pytest.raises(InputError, match=r"cannot reach the Prefect server at http://127\.0\.0\.1:9/api"):
        run_with(make_config(dask_cluster), root, "http://127.0.0.1:9/api", list)


@pytest.mark.slow
def test_gpus_that_no_worker_offers_are_an_error(dask_cluster: DaskCluster, server: str, root: Root) -> None:
    """Instead of a build that waits for ever."""
    with pytest.raises(InputError, match="2 workers without that resource"):
        run_with(make_config(dask_cluster, gpus_per_task=1), root, server, lambda runner: runner.count_slots(Resources(uses_gpu=True)))


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_an_error(server: str, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexmill.tasks.cluster.dask_runner.CONNECT_SECONDS", 2)
    with pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9"):
        run_with(RunConfig(runner="dask", address="tcp://127.0.0.1:9"), root, server, list)


@pytest.mark.slow
def test_a_cluster_for_one_build_is_started_and_ended(server: str, count_root: Root, tmp_path: Path) -> None:
    """Without an address; with as many workers as the config says."""
    config = RunConfig(runner="dask", workers=2)
    jobs = [CountJob(number) for number in range(4)]
    records = run_with(config, count_root, server, lambda runner: map_count(count_root, runner, jobs, []))
    assert len(records) == 4
    assert not any(psutil.pid_exists(record.process) for record in records.values())
