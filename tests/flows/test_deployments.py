"""What `make deploy` puts on a server: made once, kept as people set it, and at work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import StateType

from indexmill.flows.deployments import WORK_POOL, ZOMBIE_AUTOMATION, build_zombie_automation, provision_server
from indexmill.storage.errors import InputError
from indexmill.tasks.gpu_slot import GPU_LIMIT, LIMIT_VARIABLE, acquire_gpu_slot
from tests.conftest import Build

SLEEPER = """
import time
from prefect import flow
@flow
def sleeper() -> None:
    from prefect.context import FlowRunContext
    print(FlowRunContext.get().flow_run.id, flush=True)
    time.sleep(600)
sleeper()
"""


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def test_to_provide_again_changes_nothing_that_somebody_set(client: SyncPrefectClient) -> None:
    """A pool, a limit of one, an automation; then the limit is two, and stays two. The automation is not there twice."""
    provision_server()
    assert client.read_work_pool(WORK_POOL).type == "process"
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 1
    client.update_global_concurrency_limit(GPU_LIMIT, GlobalConcurrencyLimitUpdate(limit=2))
    provision_server()
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 2
    client.update_global_concurrency_limit(GPU_LIMIT, GlobalConcurrencyLimitUpdate(limit=1))
    assert [automation.enabled for automation in client.read_automations_by_name(ZOMBIE_AUTOMATION)] == [True]


def test_a_run_whose_process_is_gone_is_marked_as_crashed(client: SyncPrefectClient) -> None:
    """Killed with -9 it cannot say so itself; its silence says it. (Ten seconds is the shortest that Prefect waits.)"""
    running = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    assert running.stdout
    run = running.stdout.readline().strip()
    made = client.create_automation(build_zombie_automation(run, timedelta(seconds=10)))
    time.sleep(3)  # its first sign of life is on its way
    running.kill()
    running.communicate()
    try:
        end = time.monotonic() + 60
        while (state := client.read_flow_run(run).state) and state.type == StateType.RUNNING and time.monotonic() < end:
            time.sleep(1)
        assert (state.type, state.message) == (StateType.CRASHED, "no heartbeat: the process or its machine is gone")  # type: ignore[union-attr]
    finally:
        client.request("DELETE", "/automations/{id}", path_params={"id": made})


def test_two_take_turns(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one holds the only slot the other waits; then it has it."""
    provision_server()
    monkeypatch.setenv(LIMIT_VARIABLE, GPU_LIMIT)
    had = Event()

    def other() -> None:
        with acquire_gpu_slot():
            had.set()

    waiting = Thread(target=copy_context().run, args=(other,))  # a bare thread knows nothing of the tests' server
    with acquire_gpu_slot() as shared:
        assert shared
        waiting.start()
        assert not had.wait(3)
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 1
    assert had.wait(60)
    waiting.join()
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 0


def test_a_build_loads_and_encodes_in_its_turn(
    quick_build: Build, digits: Path, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that the server does not know: neither a model is loaded nor the stage `encode` begun. One that it knows is given back."""
    provision_server()
    monkeypatch.setenv(LIMIT_VARIABLE, "another-gpu")
    with pytest.raises(InputError, match="cannot acquire a GPU slot"):
        quick_build(digits, root=tmp_path / "new")
    assert not (tmp_path / "new" / "datasets").exists()
    with pytest.raises(InputError, match="cannot acquire a GPU slot") as refused:
        quick_build(digits)
    assert "prefect gcl create another-gpu" in refused.value.next_step
    monkeypatch.setenv(LIMIT_VARIABLE, GPU_LIMIT)
    assert quick_build(digits)["items"] == 120
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 0


def test_nobody_waits_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable says so where there is one."""
    monkeypatch.setenv(LIMIT_VARIABLE, "")
    with acquire_gpu_slot() as shared:
        assert not shared
