"""What a Prefect server must have beside the deployments: a work pool, a limit for what is shared, an end for runs that died.

`make deploy` runs this module, then `prefect deploy`. Done again it changes nothing but what Indexmill's own automation says.
"""

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

from indexmill.tasks.turns import GPU

POOL = "indexmill"
ZOMBIES = "indexmill: end runs that died"
BEATS = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Crashed", "Cancelling", "Cancelled", "Paused", "Suspended")
SILENCE = timedelta(minutes=5)  # Prefect's runs give a sign of life every 3 minutes unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY says otherwise


def provide() -> None:
    """Create what is missing on the configured server. A limit or a pool that is there stays as somebody set it."""
    with get_client(sync_client=True) as client:
        _provide_pool(client)
        _provide_limit(client, GPU)
        _provide_automation(client, zombies())


def zombies(run: str = "*", silence: timedelta = SILENCE) -> AutomationCore:
    """A run that gave a sign of life, and then for so long neither another nor an end, has crashed: it frees its deployment's slot.

    run: the id of the only run that is meant; `*` means all.
    """
    return AutomationCore(
        name=ZOMBIES,
        description="A run whose machine or process is gone is marked as crashed.",
        trigger=EventTrigger(
            after={BEATS}, expect={BEATS, *(f"prefect.flow-run.{end}" for end in ENDS)}, for_each={"prefect.resource.id"},
            match=ResourceSpecification({"prefect.resource.id": f"prefect.flow-run.{run}"}), posture=Posture.Proactive, threshold=1,
            within=silence,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life: its process or its machine is gone")],
    )  # fmt: skip


def _provide_pool(client: SyncPrefectClient) -> None:
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def _provide_limit(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))


def _provide_automation(client: SyncPrefectClient, automation: AutomationCore) -> None:
    found = client.read_automations_by_name(automation.name)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)


if __name__ == "__main__":
    provide()
