"""Declare for each stage its cache key, its retries and what it leaves behind when it is killed.

The tasks take their options from `TASK_POLICIES` through `get_task_options`. ARCHITECTURE.md shows the same table."""

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

# Faults that pass: the network, a lost worker. Everything that Indexmill raises on purpose is a lasting fault, but for
# SourceUnreachable and WorkerLost, which are ConnectionErrors too.
TRANSIENT_ERRORS = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class RetryPolicy:
    """How often the faults that pass are tried again.

    times: tries after the first. seconds: before the second try; the wait doubles from try to try. jitter: by what share of itself a wait
    may be longer; by chance, and shorter by about as much, so that its mean stays.
    """

    times: int
    seconds: float
    jitter: float


@dataclass(frozen=True)
class StagePolicy:
    """One row of the table.

    version: raised when the stage's code comes to another result. remembered_by: the inputs that its cache key is made of, records by
    their digests; none where no record is kept. aside: inputs that change how the work is done and not what comes of it. libraries: whose
    versions are in the key. retry: None where nothing is ever tried again; all faults but the passing ones never are. left: what lies
    there when it was killed, but for temporaries, which the next build sweeps.
    """

    cache_inputs: tuple[str, ...] = ()
    version: int = 1
    uncached_inputs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    retry: RetryPolicy | None = None
    leftovers: str = "files that no record names, which the next run writes again"


NETWORK_RETRY = RetryPolicy(times=3, seconds=2, jitter=0.5)

TASK_POLICIES = {
    "ingest": StagePolicy(
        ("name", "config", "revision"), 3, uncached_inputs=("rehash",), retry=NETWORK_RETRY,
        leftovers="what was downloaded, with which the next run goes on",
    ),
    "validate": StagePolicy(
        ("dataset", "config"), 3, libraries=("pillow", "ImageHash"),
        leftovers="what came of the images opened so far, which the next run does not open again",
    ),
    "split": StagePolicy(("dataset", "config"), 2, libraries=("faiss-cpu",)),
    "encode": StagePolicy(
        ("split", "config", "identity", "max_reject_fraction"), 2, uncached_inputs=("process",),
        leftovers="finished Parquet parts, which the next run counts as done",
    ),
    "encode-chunk": StagePolicy(uncached_inputs=("process", "job", "advance"), retry=NETWORK_RETRY, leftovers="nothing"),
    "train": StagePolicy(("name", "embeddings", "config"), 2, libraries=("faiss-cpu",)),
    "shard": StagePolicy(
        ("name", "embeddings", "trained", "config"), 2, libraries=("faiss-cpu",), leftovers="finished shards, which the next run takes"
    ),
    "tune": StagePolicy(("embeddings", "query_embeddings", "trained", "shards", "config"), 1, libraries=("faiss-cpu",), leftovers="nothing"),
    "evaluate": StagePolicy(
        ("name", "embeddings", "trained", "shards", "tuned", "index", "encoder", "config", "leaks", "image_root", "pairs"), 5,
        libraries=("faiss-cpu", "numpy", "scikit-learn"), leftovers="ground truth, which the next run reads",
    ),
    "publish": StagePolicy(
        ("config", "validated", "split", "embeddings", "trained", "shards", "tuned", "evaluation", "force"), 4,
        uncached_inputs=("stage_seconds",),
        leftovers="a snapshot folder without a manifest, which is no snapshot and is filled by the next run",
    ),
    "study": StagePolicy(uncached_inputs=("encoder", "config", "embeddings", "encode_stats"), leftovers="nothing"),
}  # fmt: skip
STAGES = tuple(name for name, policy in TASK_POLICIES.items() if policy.cache_inputs)


def get_task_options(name: str) -> dict[str, Any]:
    """The keyword arguments of Prefect's `task` for a row of the table."""
    policy = TASK_POLICIES[name]
    chosen: dict[str, Any] = {"name": name, "cache_policy": NO_CACHE, "persist_result": False}
    if policy.cache_inputs:  # kept as JSON, never pickled
        chosen |= {"cache_policy": StageCachePolicy(policy=policy), "persist_result": True, "result_serializer": "json"}
    if policy.retry:
        waits = [policy.retry.seconds * 2**count for count in range(policy.retry.times)]
        chosen |= {"retries": policy.retry.times, "retry_delay_seconds": waits}
        chosen |= {"retry_jitter_factor": policy.retry.jitter, "retry_condition_fn": is_transient}
    return chosen


@dataclass
class StageCachePolicy(CachePolicy):
    """Cache key: stage, its version, the versions of the libraries that shape its result, the digests of its records, its config.

    Neither the root's place, nor run ids, nor the clock are in it, so a root can be moved and a night repeated.
    """

    policy: StagePolicy = StagePolicy()

    def compute_key(self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any) -> str | None:  # noqa: ARG002
        """The key under which Prefect keeps this call's record."""
        return compute_stage_key(task_ctx.task.name, self.policy, inputs)


def compute_stage_key(name: str, policy: StagePolicy, inputs: Mapping[str, Any]) -> str:
    """`<stage>-<digest>`: the same for the same stage version, libraries and inputs that the policy names."""
    parts = {key: _identity(inputs[key]) for key in policy.cache_inputs}
    return f"{name}-{json_digest([policy.version, {name: get_installed_version(name) for name in policy.libraries}, parts])[:32]}"


def _identity(value: Any) -> Any:
    if isinstance(value, Record):
        return value.digest
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


async def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    """Whether the fault that ended `state` is one that passes."""
    try:
        await state.aresult()
    except TRANSIENT_ERRORS:
        return True
    except BaseException:
        return False
    return False
