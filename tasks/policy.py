"""What each stage is remembered by, which of its faults are worth another try, and what it leaves behind when it is killed.

The tasks take their options from `TABLE` by `options`, so what it says is what is done. ARCHITECTURE.md shows the same table.
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

# Faults that pass: the network, a lost worker. Everything that Indexmill raises on purpose is a lasting fault, but for
# SourceUnreachable and WorkerLost, which are ConnectionErrors too.
PASSING = (ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Retry:
    """How often the faults that pass are tried again.

    times: tries after the first. seconds: before the second try; the wait doubles from try to try. jitter: by what share of itself a wait
    may be longer; by chance, and shorter by about as much, so that its mean stays.
    """

    times: int
    seconds: float
    jitter: float


@dataclass(frozen=True)
class Policy:
    """One row of the table.

    version: raised when the stage's code comes to another result. remembered_by: the inputs that its cache key is made of, records by
    their digests; none where no record is kept. aside: inputs that change how the work is done and not what comes of it. libraries: whose
    versions are in the key. retry: None where nothing is ever tried again; all faults but the passing ones never are. left: what lies
    there when it was killed, but for temporaries, which the next build sweeps.
    """

    remembered_by: tuple[str, ...] = ()
    version: int = 1
    aside: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    retry: Retry | None = None
    left: str = "files that no record names, which the next run writes again"


THRICE = Retry(times=3, seconds=2, jitter=0.5)

TABLE = {
    "ingest": Policy(
        ("name", "config", "revision"), 3, aside=("rehash",), retry=THRICE,
        left="what was downloaded, with which the next run goes on",
    ),
    "validate": Policy(
        ("dataset", "config"), 3, libraries=("pillow", "ImageHash"),
        left="what came of the images opened so far, which the next run does not open again",
    ),
    "split": Policy(("dataset", "config"), 2, libraries=("faiss-cpu",)),
    "encode": Policy(
        ("split", "config", "identity", "max_reject_fraction"), 2, aside=("process",),
        left="finished Parquet parts, which the next run counts as done",
    ),
    "encode-shard": Policy(aside=("process", "job", "advance"), retry=THRICE, left="nothing"),
    "train": Policy(("name", "embeddings", "config"), 2, libraries=("faiss-cpu",)),
    "shard": Policy(
        ("name", "embeddings", "trained", "config"), 2, libraries=("faiss-cpu",), left="finished shards, which the next run takes"
    ),
    "tune": Policy(("embeddings", "asked", "trained", "shards", "config"), 1, libraries=("faiss-cpu",), left="nothing"),
    "evaluate": Policy(
        ("name", "embeddings", "trained", "shards", "tuned", "index", "encoder", "config", "leaks", "base", "pairs"), 4,
        libraries=("faiss-cpu", "numpy", "scikit-learn"), left="ground truth, which the next run reads",
    ),
    "publish": Policy(
        ("config", "validated", "split", "embeddings", "trained", "shards", "tuned", "evaluation", "force"), 4, aside=("seconds",),
        left="a snapshot folder without a manifest, which is no snapshot and is filled by the next run",
    ),
    "study": Policy(aside=("encoder", "config", "embeddings", "extraction"), left="nothing"),
}  # fmt: skip
STAGES = tuple(name for name, policy in TABLE.items() if policy.remembered_by)


def options(name: str) -> dict[str, Any]:
    """The keyword arguments of Prefect's `task` for a row of the table."""
    policy = TABLE[name]
    chosen: dict[str, Any] = {"name": name, "cache_policy": NO_CACHE, "persist_result": False}
    if policy.remembered_by:  # kept as JSON, never pickled
        chosen |= {"cache_policy": StageCache(policy=policy), "persist_result": True, "result_serializer": "json"}
    if policy.retry:
        waits = [policy.retry.seconds * 2**count for count in range(policy.retry.times)]
        chosen |= {"retries": policy.retry.times, "retry_delay_seconds": waits}
        chosen |= {"retry_jitter_factor": policy.retry.jitter, "retry_condition_fn": passes}
    return chosen


@dataclass
class StageCache(CachePolicy):
    """Cache key: stage, its version, the versions of the libraries that shape its result, the digests of its records, its config.

    Neither the root's place, nor run ids, nor the clock are in it, so a root can be moved and a night repeated.
    """

    policy: Policy = Policy()

    def compute_key(self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any) -> str | None:  # noqa: ARG002
        """The key under which Prefect keeps this call's record."""
        return stage_key(task_ctx.task.name, self.policy, inputs)


def stage_key(name: str, policy: Policy, inputs: Mapping[str, Any]) -> str:
    """`<stage>-<digest>`: the same for the same stage version, libraries and inputs that the policy names."""
    parts = {key: _identity(inputs[key]) for key in policy.remembered_by}
    return f"{name}-{json_digest([policy.version, {name: get_installed_version(name) for name in policy.libraries}, parts])[:32]}"


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
