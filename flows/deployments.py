"""Set up what deployments need on a Prefect server, and emit the event that starts them.

`make deploy` runs this module, then `prefect deploy`. It creates the work pool, the concurrency limit for the GPU and the
automation that ends dead runs. Running it again changes nothing except Indexmill's own automation."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from indexmill.storage.errors import InputError
from indexmill.tasks.gpu_slot import GPU_LIMIT

ITEMS_LANDED_EVENT = "indexmill.items-landed"


def resource(name: str) -> str:
    """What the event is about: the `prefect.resource.id` that the triggers in prefect.yaml match."""
    return f"indexmill.pipeline.{name}"


def emit_items_landed(name: str) -> str:
    """Emit the event LANDED for a pipeline, and wait until the server has it. Raises InputError where no server is configured."""
    from prefect.events import emit_event
    from prefect.events.worker import EventsWorker
    from prefect.settings import get_current_settings

    from indexmill.configs.loading import load_config

    config = load_config(name, [])
    url = get_current_settings().api.url
    if not url:
        raise InputError(
            "no Prefect server is configured", where="PREFECT_API_URL", expected="http://127.0.0.1:4200/api", got="nothing",
            next_step="make up, then export PREFECT_API_URL",
        )  # fmt: skip
    emit_event(event=ITEMS_LANDED_EVENT, resource={"prefect.resource.id": resource(config.name), "prefect.resource.name": config.name})
    EventsWorker.drain_all(timeout=10)
    return f"{url} was told: {ITEMS_LANDED_EVENT} of {config.name}"


WORK_POOL = "indexmill"
ZOMBIE_AUTOMATION = "indexmill: end runs that died"
HEARTBEAT_EVENT = "prefect.flow-run.heartbeat"
END_STATES = ("Completed", "Failed", "Crashed", "Cancelling", "Cancelled", "Paused", "Suspended")
HEARTBEAT_TIMEOUT = timedelta(
    minutes=5
)  # Prefect's runs give a sign of life every 3 minutes unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY says otherwise


def provision_server() -> None:
    """Create what is missing on the configured server. A limit or a pool that is there stays as somebody set it."""
    with get_client(sync_client=True) as client:
        _ensure_work_pool(client)
        _ensure_concurrency_limit(client, GPU_LIMIT)
        _ensure_automation(client, build_zombie_automation())


def build_zombie_automation(run: str = "*", timeout: timedelta = HEARTBEAT_TIMEOUT) -> AutomationCore:
    """A run that gave a sign of life, and then for so long neither another nor an end, has crashed: it frees its deployment's slot.

    run: the id of the only run that is meant; `*` means all.
    """
    return AutomationCore(
        name=ZOMBIE_AUTOMATION,
        description="A run whose machine or process is gone is marked as crashed.",
        trigger=EventTrigger(
            after={HEARTBEAT_EVENT}, expect={HEARTBEAT_EVENT, *(f"prefect.flow-run.{end}" for end in END_STATES)}, for_each={"prefect.resource.id"},
            match=ResourceSpecification({"prefect.resource.id": f"prefect.flow-run.{run}"}), posture=Posture.Proactive, threshold=1,
            within=timeout,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life: its process or its machine is gone")],
    )  # fmt: skip


def _ensure_work_pool(client: SyncPrefectClient) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))


def _ensure_concurrency_limit(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def _ensure_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    found = client.read_automations_by_name(automation.name)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)


if __name__ == "__main__":
    provision_server()
