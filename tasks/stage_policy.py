"""Declare each stage's cache key, its retries and what a killed run leaves behind.

The tasks take their options from `TASK_POLICIES` through `get_task_options`. ARCHITECTURE.md shows the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from pydantic import BaseModel

from indexmill.storage.digests import json_digest
from indexmill.storage.records import Record
from indexmill.storage.versions import get_installed_version
from indexmill.tasks.retry import RetryPolicy

# The network, or a lost worker. Indexmill's own errors are permanent, except SourceUnreachable and WorkerLost, which
# are ConnectionErrors too.
TRANSIENT_ERRORS = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class StagePolicy:
    """The caching and retries of one task.

    Attributes:
        cache_inputs: The inputs in the cache key, records by their digests. Empty if the result is not cached.
        version: Part of the cache key; raise it when the stage's code gives another result.
        uncached_inputs: Inputs that change how the work is done but not its result.
        libraries: The libraries whose versions are part of the cache key.
        retry: How transient errors are retried; None for never. Other errors are never retried.
        leftovers: What a killed run leaves behind, besides temporary files, which the next build deletes.
    """

    cache_inputs: tuple[str, ...] = ()
    version: int = 1
    uncached_inputs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    retry: RetryPolicy | None = None
    leftovers: str = "files without a record, which the next run overwrites"


NETWORK_RETRY = RetryPolicy(attempts=4, first_wait_s=2)

TASK_POLICIES = {
    "ingest": StagePolicy(
        cache_inputs=("name", "config", "revision"),
        version=5,
        uncached_inputs=("rehash",),
        retry=NETWORK_RETRY,
        leftovers="downloads, which the next run resumes",
    ),
    "validate": StagePolicy(
        cache_inputs=("dataset", "config"),
        version=4,
        uncached_inputs=("runner",),
        libraries=("pillow", "ImageHash", "pillow-heif"),
        leftovers="results of the images decoded so far, which the next run reuses",
    ),
    "split": StagePolicy(
        cache_inputs=("dataset", "config"),
        version=3,
        libraries=("faiss-cpu",),
    ),
    "chunk": StagePolicy(
        cache_inputs=("split", "config", "encoder", "fingerprint"),
        libraries=("tokenizers",),
    ),
    "queries": StagePolicy(
        cache_inputs=("split", "config", "revision"),
        libraries=("faiss-cpu", "pillow", "ImageHash", "pillow-heif"),
        retry=NETWORK_RETRY,
    ),
    "encode": StagePolicy(
        cache_inputs=("split", "config", "identity", "max_reject_fraction"),
        version=4,
        uncached_inputs=("process", "runner"),
        leftovers="finished Parquet parts, which the next run reuses",
    ),
    "encode-chunk": StagePolicy(
        uncached_inputs=("process", "job", "advance"),
        retry=NETWORK_RETRY,
        leftovers="nothing",
    ),
    "train": StagePolicy(
        cache_inputs=("name", "embeddings", "config"),
        version=3,
        libraries=("faiss-cpu",),
    ),
    "shard": StagePolicy(
        cache_inputs=("name", "embeddings", "trained", "config"),
        version=3,
        uncached_inputs=("runner",),
        libraries=("faiss-cpu",),
        leftovers="finished shards, which the next run reuses",
    ),
    "tune": StagePolicy(
        cache_inputs=("embeddings", "query_embeddings", "trained", "shards", "config"),
        uncached_inputs=("name",),
        libraries=("faiss-cpu",),
        leftovers="ground truth, which the next run reuses",
    ),
    "evaluate": StagePolicy(
        cache_inputs=(
            "name",
            "embeddings",
            "trained",
            "shards",
            "tuned",
            "index",
            "encoder",
            "config",
            "leaks",
            "image_root",
            "pairs",
            "measure_versions",
        ),
        version=7,
        uncached_inputs=("runner",),
        libraries=("faiss-cpu", "numpy", "scikit-learn"),
        leftovers="ground truth, which the next run reuses",
    ),
    "publish": StagePolicy(
        cache_inputs=("config", "validated", "split", "embeddings", "trained", "shards", "tuned", "evaluation", "force"),
        version=4,
        uncached_inputs=("stage_seconds", "runner"),
        leftovers="a snapshot folder without a manifest, which the next run completes",
    ),
    "export": StagePolicy(
        uncached_inputs=("name", "config"),
        retry=NETWORK_RETRY,
        leftovers="files beside the target, or a collection without an alias, which the next run removes",
    ),
    "study": StagePolicy(
        uncached_inputs=("encoder", "config", "embeddings", "encode_stats"),
        leftovers="nothing",
    ),
    "job": StagePolicy(
        uncached_inputs=("name", "run", "setup", "job"),
        retry=NETWORK_RETRY,
        leftovers="its finished files, which the next run reuses",
    ),
}
STAGES = tuple(name for name, policy in TASK_POLICIES.items() if policy.cache_inputs)


def get_task_options(name: str) -> dict[str, Any]:
    """Return the keyword arguments of Prefect's `task` for a stage."""
    policy = TASK_POLICIES[name]
    options: dict[str, Any] = {"name": name, "cache_policy": NO_CACHE, "persist_result": False}
    if policy.cache_inputs:  # stored as JSON, never pickled
        options |= {"cache_policy": StageCachePolicy(policy=policy), "persist_result": True, "result_serializer": "json"}
    if policy.retry:
        options |= {"retries": policy.retry.attempts - 1, "retry_delay_seconds": list(policy.retry.waits_s)}
        options |= {"retry_jitter_factor": policy.retry.jitter, "retry_condition_fn": retry_if_transient}
    return options


@dataclass
class StageCachePolicy(CachePolicy):
    """A cache key of the stage, its version, library versions, record digests and config.

    It has no path of the root, no run id and no time, so a root can be moved and a build repeated.
    """

    policy: StagePolicy = StagePolicy()

    def compute_key(self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any) -> str | None:  # noqa: ARG002
        """Return the key under which Prefect stores the record of this call."""
        return compute_stage_key(task_ctx.task.name, self.policy, inputs)


def compute_stage_key(name: str, policy: StagePolicy, inputs: Mapping[str, Any]) -> str:
    """Return `<stage>-<digest>` of the stage's version, its libraries' versions and its cached inputs."""
    values = {key: _get_key_value(inputs[key]) for key in policy.cache_inputs}
    library_versions = {library: get_installed_version(library) for library in policy.libraries}
    return f"{name}-{json_digest([policy.version, library_versions, values])[:32]}"


def _get_key_value(value: Any) -> Any:
    if isinstance(value, Record):
        return value.digest
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


async def retry_if_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    """Return whether the error of a failed task run is transient (Prefect's `retry_condition_fn`)."""
    try:
        await state.aresult()
    except TRANSIENT_ERRORS:
        return True
    except BaseException:
        return False
    return False
