"""Set up what deployments need on a Prefect server, and emit the event that starts them.

`make deploy` runs this module, then `prefect deploy`. It creates the work pool, the concurrency limit for the GPU and
the automation that ends dead runs. Running it again changes nothing except Indexmill's own automation.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings

from indexmill.configs.loading import load_config
from indexmill.storage.errors import InputError
from indexmill.tasks.gpu_slot import GPU_LIMIT

WORK_POOL = "indexmill"
ITEMS_LANDED_EVENT = "indexmill.items-landed"
ZOMBIE_AUTOMATION = "indexmill: end runs that died"
HEARTBEAT_EVENT = "prefect.flow-run.heartbeat"
# Runs send a heartbeat every 3 minutes, unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY is set.
HEARTBEAT_TIMEOUT = timedelta(minutes=5)
END_STATES = ("Completed", "Failed", "Crashed", "Cancelling", "Cancelled", "Paused", "Suspended")


def provision_server() -> None:
    """Create what the configured server lacks. An existing work pool or concurrency limit keeps its settings."""
    with get_client(sync_client=True) as client:
        _ensure_work_pool(client)
        _ensure_concurrency_limit(client, GPU_LIMIT)
        _ensure_automation(client, build_zombie_automation())


def build_zombie_automation(run: str = "*", timeout: timedelta = HEARTBEAT_TIMEOUT) -> AutomationCore:
    """Build the automation that marks a run as crashed when its heartbeats stop, which frees its deployment's slot.

    Args:
        run: The id of one run to watch; `*` for all.
        timeout: How long after a heartbeat the next one, or an end state, must come.
    """
    trigger = EventTrigger(
        after={HEARTBEAT_EVENT},
        expect={HEARTBEAT_EVENT, *(f"prefect.flow-run.{end}" for end in END_STATES)},
        for_each={"prefect.resource.id"},
        match=ResourceSpecification({"prefect.resource.id": f"prefect.flow-run.{run}"}),
        posture=Posture.Proactive,
        threshold=1,
        within=timeout,
    )
    return AutomationCore(
        name=ZOMBIE_AUTOMATION,
        description="Marks a run as crashed when its process or its machine is gone.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: the process or its machine is gone")],
    )


def emit_items_landed(name: str) -> str:
    """Emit the event that starts a pipeline's deployment, and wait until the server has it. Returns a line to print.

    Raises:
        InputError: The pipeline does not exist, or no Prefect server is configured.
    """
    config = load_config(name, [])
    url = get_current_settings().api.url
    if not url:
        raise InputError(
            "no Prefect server is configured",
            where="PREFECT_API_URL",
            expected="the URL of a server, such as http://127.0.0.1:4200/api",
            got="nothing",
            next_step="make up, then export PREFECT_API_URL",
        )
    resource = {"prefect.resource.id": get_pipeline_resource_id(config.name), "prefect.resource.name": config.name}
    emit_event(event=ITEMS_LANDED_EVENT, resource=resource)
    EventsWorker.drain_all(timeout=10)
    return f"sent {ITEMS_LANDED_EVENT} of {config.name} to {url}"


def get_pipeline_resource_id(name: str) -> str:
    """Return the `prefect.resource.id` of a pipeline, which the triggers in prefect.yaml match."""
    return f"indexmill.pipeline.{name}"


def _ensure_work_pool(client: SyncPrefectClient) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))


def _ensure_concurrency_limit(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def _ensure_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    if existing := client.read_automations_by_name(automation.name):
        client.update_automation(existing[0].id, automation)
    else:
        client.create_automation(automation)


if __name__ == "__main__":
    provision_server()
