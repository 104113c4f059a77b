"""What a stage's record is remembered by, and that the table which says so is the one that people read."""

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
from indexmill.tasks.encode import encode, encode_chunk
from indexmill.tasks.encoding.process import WorkerLost
from indexmill.tasks.evaluate import evaluate
from indexmill.tasks.ingest import ingest
from indexmill.tasks.publish import publish
from indexmill.tasks.shard import shard
from indexmill.tasks.sources.downloads import RetryPolicy
from indexmill.tasks.split import split
from indexmill.tasks.stage_policy import STAGES, TASK_POLICIES, StagePolicy, compute_stage_key, is_transient
from indexmill.tasks.study import study
from indexmill.tasks.train import train
from indexmill.tasks.tune import tune
from indexmill.tasks.validate import validate

TASKS: dict[str, Task[..., Any]] = {
    task.name: task for task in (ingest, validate, split, encode, encode_chunk, train, shard, tune, evaluate, publish, study)
}
ARCHITECTURE = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_the_key_depends_on_digests_config_version_and_libraries_and_not_on_the_place(tmp_path: Path) -> None:
    """A root can be moved, and a file list can change, without any stage being done again."""

    def key(
        name: str = "split", version: int = 1, libraries: tuple[str, ...] = (), digest: str = "d", seed: int = 0, place: str = "a"
    ) -> str:
        inputs = {"root": Root(tmp_path / place), "dataset": Record(digest=digest, files=()), "config": SplitConfig(seed=seed)}
        return compute_stage_key(name, StagePolicy(("dataset", "config"), version, libraries=libraries), inputs)

    assert key() == key(place="b")
    assert len({key(), key("other"), key(version=2), key(libraries=("numpy",)), key(digest="e"), key(seed=1)}) == 6


@pytest.mark.parametrize(
    ("problem", "again"),
    [
        (ConnectionError(), True), (BrokenPipeError(), True), (TimeoutError(), True), (SourceUnreachable("away"), True),
        (WorkerLost(-15), True), (InputError("no"), False), (ValueError("no"), False), (OSError(28, "disk full"), False),
    ],
)  # fmt: skip
def test_only_faults_that_pass_are_tried_again(problem: Exception, again: bool) -> None:
    """The network may come back; a wrong config will be as wrong the next time."""
    assert asyncio.run(is_transient(None, None, Failed(data=problem))) is again  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TASK_POLICIES)
def test_every_input_of_a_task_is_in_its_row(name: str) -> None:
    """An input that somebody adds is either part of what the stage is remembered by, or said not to be."""
    policy, inputs = TASK_POLICIES[name], set(inspect.signature(TASKS[name].fn).parameters) - {"root"}
    assert inputs == {*policy.cache_inputs, *policy.uncached_inputs}
    assert not set(policy.cache_inputs) & set(policy.uncached_inputs)


def test_the_stages_stand_in_the_table_in_the_order_in_which_they_run() -> None:
    """`--refresh` rests on that order; ARCHITECTURE.md has it in its third line."""
    assert " → ".join(STAGES) in ARCHITECTURE
    assert get_args(StageName) == STAGES
    assert list(TASKS) == list(TASK_POLICIES)


def test_the_document_shows_the_table() -> None:
    """Row by row; and what it says below the table of waits and tries within a stage is what the code has."""
    shown = ARCHITECTURE[ARCHITECTURE.index("## Caching") : ARCHITECTURE.index("Remembered by: inputs")]
    rows = [row(name, policy) for name, policy in TASK_POLICIES.items()]
    assert [line for line in shown.splitlines() if line.startswith("| ")][1:] == rows, "\n".join(rows)
    assert "tried 4 times by itself\n(3 for the hub that has a model), after 1, 2, 4 s" in ARCHITECTURE
    assert (RetryPolicy().attempts, RetryPolicy().first_wait_s) == (4, 1)


def row(name: str, policy: StagePolicy) -> str:
    """A line of the document's table."""
    again = policy.retry
    waits = ", ".join(f"{again.seconds * 2**count:g}" for count in range(again.times)) if again else ""
    cells = [
        name,
        ", ".join(policy.cache_inputs) or "(not remembered)",
        ", ".join(policy.libraries),
        f"{again.times} times, after {waits} s" if again else "never",
        policy.leftovers,
    ]
    return "| " + " | ".join(cells) + " |"
