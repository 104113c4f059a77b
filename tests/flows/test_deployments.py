"""What `make deploy` creates on a server: once, kept as users change it, and in effect."""

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

from indexmill.flows.deployments import HEARTBEAT_EVENT, WORK_POOL, ZOMBIE_AUTOMATION, build_zombie_automation, provision_server
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


def test_provisioning_again_keeps_what_a_user_changed(client: SyncPrefectClient) -> None:
    """A pool, a limit of one, one automation; a limit that a user sets to two stays two."""
    provision_server()
    assert client.read_work_pool(WORK_POOL).type == "process"
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 1
    client.update_global_concurrency_limit(GPU_LIMIT, GlobalConcurrencyLimitUpdate(limit=2))
    provision_server()
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 2
    client.update_global_concurrency_limit(GPU_LIMIT, GlobalConcurrencyLimitUpdate(limit=1))
    assert [automation.enabled for automation in client.read_automations_by_name(ZOMBIE_AUTOMATION)] == [True]


def wait_for_heartbeat(client: SyncPrefectClient, run: str) -> None:
    """Wait until the server has the first heartbeat of a run: without one, it does not miss the next."""
    wanted = {"event": {"name": [HEARTBEAT_EVENT]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    deadline = time.monotonic() + 300
    while not client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1}).json()["total"]:
        assert time.monotonic() < deadline, "the server has no heartbeat"
        time.sleep(0.5)


@pytest.mark.slow
def test_a_run_whose_process_is_gone_is_marked_as_crashed(client: SyncPrefectClient) -> None:
    """Its missing heartbeat shows it. Ten seconds is the shortest time that Prefect waits."""
    # Before the run starts: the automation misses a heartbeat that comes before it.
    automation_id = client.create_automation(build_zombie_automation(timeout=timedelta(seconds=10)))
    running = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout
        run = running.stdout.readline().strip()
        wait_for_heartbeat(client, run)
        running.kill()
        running.communicate()
        deadline = time.monotonic() + 300
        while (state := client.read_flow_run(run).state) and state.type == StateType.RUNNING and time.monotonic() < deadline:
            time.sleep(1)
        assert (state.type, state.message) == (StateType.CRASHED, "no heartbeat: the process or its machine is gone")  # type: ignore[union-attr]
    finally:
        running.kill()
        client.request("DELETE", "/automations/{id}", path_params={"id": automation_id})


def test_a_gpu_slot_is_held_by_one_at_a_time(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one holds the only slot the other waits, and then acquires it."""
    provision_server()
    monkeypatch.setenv(LIMIT_VARIABLE, GPU_LIMIT)
    acquired = Event()

    def wait_for_slot() -> None:
        with acquire_gpu_slot():
            acquired.set()

    waiting = Thread(target=copy_context().run, args=(wait_for_slot,))  # a new thread lacks the context with the tests' server
    with acquire_gpu_slot() as shared:
        assert shared
        waiting.start()
        assert not acquired.wait(2)
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 1
    assert acquired.wait(300)
    waiting.join()
    assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 0


def test_a_build_holds_a_slot_while_it_loads_and_encodes(
    quick_build: Build, digits: Path, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an unknown limit no model is loaded and the stage `encode` does not start; a known one is released."""
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


def test_without_a_gpu_no_slot_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable disables the limit on a machine with a GPU."""
    monkeypatch.setenv(LIMIT_VARIABLE, "")
    with acquire_gpu_slot() as shared:
        assert not shared
