"""Cache keys and retries of the stages, and the table of them in ARCHITECTURE.md."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any, get_args

import pytest
from prefect import Task
from prefect.states import Failed

from indexmill.configs.models import SplitConfig
from indexmill.flows.stage_runner import StageName
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.tasks.chunk import chunk
from indexmill.tasks.cluster.base import run_job
from indexmill.tasks.encode import encode, encode_chunk
from indexmill.tasks.encoding.model_hub import HUB_RETRY
from indexmill.tasks.encoding.process import WorkerLost
from indexmill.tasks.evaluate import evaluate
from indexmill.tasks.export import export
from indexmill.tasks.ingest import ingest
from indexmill.tasks.publish import publish
from indexmill.tasks.queries import read_queries
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.shard import shard
from indexmill.tasks.split import split
from indexmill.tasks.stage_policy import STAGES, TASK_POLICIES, StagePolicy, compute_stage_key, retry_if_transient
from indexmill.tasks.study import study
from indexmill.tasks.train import train
from indexmill.tasks.tune import tune
from indexmill.tasks.validate import validate

TASKS: dict[str, Task[..., Any]] = {
    task.name: task
    for task in (
        ingest,
        validate,
        split,
        chunk,
        read_queries,
        encode,
        encode_chunk,
        train,
        shard,
        tune,
        evaluate,
        publish,
        export,
        study,
        run_job,
    )
}
ARCHITECTURE = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_key_depends_on_digests_config_version_and_libraries_but_not_on_the_root(tmp_path: Path) -> None:
    """A root can be moved, and a file list can change, without any stage running again."""

    def key(
        name: str = "split", version: int = 1, libraries: tuple[str, ...] = (), digest: str = "d", seed: int = 0, root: str = "a"
    ) -> str:
        inputs = {"root": Root(tmp_path / root), "dataset": Record(digest=digest, files=()), "config": SplitConfig(seed=seed)}
        return compute_stage_key(name, StagePolicy(("dataset", "config"), version, libraries=libraries), inputs)

    assert key() == key(root="b")
    assert len({key(), key("other"), key(version=2), key(libraries=("numpy",)), key(digest="e"), key(seed=1)}) == 6


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (ConnectionError(), True),
        (BrokenPipeError(), True),
        (TimeoutError(), True),
        (SourceUnreachable("away"), True),
        (WorkerLost(-15), True),
        (InputError("no"), False),
        (ValueError("no"), False),
        (OSError(28, "disk full"), False),
    ],
)
def test_only_transient_errors_are_retried(error: Exception, is_retried: bool) -> None:
    """The network may come back; a wrong config stays wrong."""
    assert asyncio.run(retry_if_transient(None, None, Failed(data=error))) is is_retried  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TASK_POLICIES)
def test_every_input_of_a_task_is_in_its_policy(name: str) -> None:
    """A new input must be declared as part of the cache key or as uncached."""
    policy, inputs = TASK_POLICIES[name], set(inspect.signature(TASKS[name].fn).parameters) - {"root"}
    assert inputs == {*policy.cache_inputs, *policy.uncached_inputs}
    assert not set(policy.cache_inputs) & set(policy.uncached_inputs)


def test_the_table_lists_the_stages_in_the_order_in_which_they_run() -> None:
    """`--refresh` relies on that order; ARCHITECTURE.md states it."""
    assert " → ".join(STAGES) in ARCHITECTURE
    assert get_args(StageName) == STAGES
    assert list(TASKS) == list(TASK_POLICIES)


def test_architecture_shows_the_table() -> None:
    """Row by row, and the text below the table states the attempts and waits of calls within a stage."""
    section = ARCHITECTURE[ARCHITECTURE.index("## Caching") : ARCHITECTURE.index("The cache key consists of")]
    rows = [format_row(name, policy) for name, policy in TASK_POLICIES.items()]
    assert [line for line in section.splitlines() if line.startswith("| ")][1:] == rows, "\n".join(rows)
    assert "4 attempts per call to a data provider\n(3 to the model hub), after 1, 2, 4 s" in ARCHITECTURE
    assert (RetryPolicy().attempts, RetryPolicy().waits_s, HUB_RETRY.attempts) == (4, (1, 2, 4), 3)


def format_row(name: str, policy: StagePolicy) -> str:
    """Return a row of the document's table."""
    waits_s = policy.retry.waits_s if policy.retry else ()
    cells = [
        name,
        ", ".join(policy.cache_inputs) or "(not cached)",
        ", ".join(policy.libraries),
        f"{len(waits_s)}, after {', '.join(f'{wait:g}' for wait in waits_s)} s" if waits_s else "none",
        policy.leftovers,
    ]
    return "| " + " | ".join(cells) + " |"
