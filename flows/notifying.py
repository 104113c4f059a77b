"""Saying that new items are there, for those who know it when it happens."""

from __future__ import annotations

from indexmill.storage.errors import InputError

LANDED = "indexmill.items-landed"


def resource(name: str) -> str:
    """What the event is about: the `prefect.resource.id` that the triggers in prefect.yaml match."""
    return f"indexmill.pipeline.{name}"


def notify_landed(name: str) -> str:
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
    emit_event(event=LANDED, resource={"prefect.resource.id": resource(config.name), "prefect.resource.name": config.name})
    EventsWorker.drain_all(timeout=10)
    return f"{url} was told: {LANDED} of {config.name}"
