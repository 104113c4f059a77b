"""Running a stage: from its remembered record where that can be believed, else for real."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from prefect import Task
from prefect.client.schemas.objects import State

from indexmill.flows.remembered import RecordFiles
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import InputError
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.tasks.policy import STAGES

R = TypeVar("R", bound=Record)


Stage = Literal["ingest", "validate", "split", "encode", "train", "shard", "tune", "evaluate", "publish"]  # STAGES, for the form


def refreshed(stage: str | None) -> frozenset[str]:
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
class Stages:
    """The stages of one build, in the order in which they are run.

    thorough: check digests of remembered files, not only sizes. refresh: stages that are done whatever is remembered.
    """

    root: Root
    thorough: bool = False
    refresh: frozenset[str] = frozenset()
    runs: dict[str, StageRun] = field(default_factory=dict)

    def run(self, stage: Task[..., R], *inputs: Any, doubt: Callable[[R], str] = lambda record: "") -> R:
        """The stage's record for these inputs. A remembered one counts only while its files are there and `doubt` says nothing of it."""
        start = time.perf_counter()
        with translate_disk_errors(self.root.path, f"in the stage {stage.name}"):
            state = cast(State[R], self._kept(stage, again=stage.name in self.refresh)(self.root, *inputs, return_state=True))
            record, cached = state.result(), state.name == "Cached"
            if cached and (self.root.find_invalid_files(cast(Record, record), thorough=self.thorough) or doubt(record)):
                state = cast(State[R], self._kept(stage, again=True)(self.root, *inputs, return_state=True))
                record, cached = state.result(), False
        self.runs[stage.name] = StageRun(round(time.perf_counter() - start, 3), cached)
        return record

    def seconds(self) -> dict[str, float]:
        """What each stage took so far."""
        return {name: run.seconds for name, run in self.runs.items()}

    def _kept(self, stage: Task[..., R], *, again: bool) -> Task[..., R]:
        """The stage with its records under the root; again: done whatever is remembered."""
        self.root.cache.mkdir(exist_ok=True)
        stage = stage.with_options(refresh_cache=again)
        stage.result_storage = RecordFiles(basepath=str(self.root.cache))  # as an option it would have to be saved on the server
        return stage
