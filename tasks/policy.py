"""When a stage's remembered record may stand for its work, and which faults are worth another try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from storage.digests import json_digest
from storage.records import Record
from storage.root import Root
from storage.versions import installed

# Faults that pass: the network, a lost worker. Everything that Indexmill raises on purpose is a lasting fault.
PASSING = (ConnectionError, TimeoutError, BrokenPipeError)


@dataclass
class StageCache(CachePolicy):
    """Cache key: stage, its version, the versions of the libraries that shape its result, the digests of its records, its config.

    Neither the root's place, nor run ids, nor the clock are in it, so a root can be moved and a night repeated.
    """

    stage_version: int = 1
    libraries: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # inputs that change how the work is done, not what comes of it

    def compute_key(self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any) -> str | None:  # noqa: ARG002
        """The key under which Prefect keeps this call's record."""
        return stage_key(task_ctx.task.name, self, inputs)


def stage_key(name: str, cache: StageCache, inputs: Mapping[str, Any]) -> str:
    """`<stage>-<digest>`: the same for the same stage version, libraries and inputs."""
    parts = {key: _identity(value) for key, value in inputs.items() if not isinstance(value, Root) and key not in cache.left_out}
    return f"{name}-{json_digest([cache.stage_version, {name: installed(name) for name in cache.libraries}, parts])[:32]}"


def _identity(value: Any) -> Any:
    if isinstance(value, Record):
        return value.digest
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


async def passes(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    """Whether the fault that ended `state` is one that passes."""
    try:
        await state.aresult()
    except PASSING:
        return True
    except BaseException:
        return False
    return False


# Keyword arguments of a task that meets the outside: three more tries, 2, 4 and 8 seconds apart, up to half as long again by chance.
RETRIED: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": passes,
}

# What every stage has: records are kept as JSON, never pickled.
REMEMBERED: dict[str, Any] = {"persist_result": True, "result_serializer": "json"}
