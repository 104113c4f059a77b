"""Run a stage: take its cached record where that is still valid, else run the task."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from prefect import Task
from prefect.client.schemas.objects import State

from indexmill.flows.result_store import RecordStorage
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import InputError
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.tasks.stage_policy import STAGES

R = TypeVar("R", bound=Record)


StageName = Literal["ingest", "validate", "split", "encode", "train", "shard", "tune", "evaluate", "publish"]  # STAGES, for the form


def select_stages_from(stage: str | None) -> frozenset[str]:
    """A stage and those that follow it; none for None. Raises InputError for a name that is no stage."""
    if stage is None:
        return frozenset()
    if stage not in STAGES:
        raise InputError("there is no such stage", where="--refresh", expected=", ".join(STAGES), got=stage)
    return frozenset(STAGES[STAGES.index(stage) :])


@dataclass(frozen=True)
class StageRun:
    """How a stage went: wall-clock seconds, and whether its record was remembered."""

    seconds: float
    cached: bool


@dataclass
class StageRunner:
    """The stages of one build, in the order in which they are run.

    thorough: check digests of remembered files, not only sizes. refresh: stages that are done whatever is remembered.
    """

    root: Root
    thorough: bool = False
    refresh: frozenset[str] = frozenset()
    runs: dict[str, StageRun] = field(default_factory=dict)

    def run(self, stage: Task[..., R], *inputs: Any, staleness_check: Callable[[R], str] = lambda record: "", **named_inputs: Any) -> R:
        """The stage's record for these inputs. A cached one counts only while its files are intact and `staleness_check` returns no reason."""
        start = time.perf_counter()
        with translate_disk_errors(self.root.path, f"in the stage {stage.name}"):
            state = cast(
                State[R],
                self._with_result_store(stage, force_rerun=stage.name in self.refresh)(
                    self.root, *inputs, **named_inputs, return_state=True
                ),
            )
            record, cached = state.result(), state.name == "Cached"
            if cached and (self.root.find_invalid_files(cast(Record, record), thorough=self.thorough) or staleness_check(record)):
                state = cast(
                    State[R], self._with_result_store(stage, force_rerun=True)(self.root, *inputs, **named_inputs, return_state=True)
                )
                record, cached = state.result(), False
        self.runs[stage.name] = StageRun(round(time.perf_counter() - start, 3), cached)
        return record

    def seconds(self) -> dict[str, float]:
        """What each stage took so far."""
        return {name: run.seconds for name, run in self.runs.items()}

    def _with_result_store(self, stage: Task[..., R], *, force_rerun: bool) -> Task[..., R]:
        """The stage with its records under the root; again: done whatever is remembered."""
        self.root.cache.mkdir(exist_ok=True)
        stage = stage.with_options(refresh_cache=force_rerun)
        stage.result_storage = RecordStorage(basepath=str(self.root.cache))  # as an option it would have to be saved on the server
        return stage
