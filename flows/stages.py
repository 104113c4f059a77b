"""Running a stage: from its remembered record where that can be believed, else for real."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from prefect import Task
from prefect.client.schemas.objects import State

from storage.disk import writing_below
from storage.errors import InputError
from storage.records import Record
from storage.root import Root

R = TypeVar("R", bound=Record)


ORDER = ("ingest", "validate", "split", "encode", "train", "shard", "tune", "evaluate", "publish")


def refreshed(stage: str | None) -> frozenset[str]:
    """A stage and those that follow it; none for None. Raises InputError for a name that is no stage."""
    if stage is None:
        return frozenset()
    if stage not in ORDER:
        raise InputError("there is no such stage", where="--refresh", expected=", ".join(ORDER), got=stage)
    return frozenset(ORDER[ORDER.index(stage) :])


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
        stage = stage.with_options(result_storage=self._storage(), refresh_cache=stage.name in self.refresh)
        with writing_below(self.root.path, f"in the stage {stage.name}"):
            state = cast(State[R], stage(self.root, *inputs, return_state=True))
            record, cached = state.result(), state.name == "Cached"
            if cached and (self.root.unbelievable(cast(Record, record), thorough=self.thorough) or doubt(record)):
                state = cast(State[R], stage.with_options(refresh_cache=True)(self.root, *inputs, return_state=True))
                record, cached = state.result(), False
        self.runs[stage.name] = StageRun(round(time.perf_counter() - start, 3), cached)
        return record

    def seconds(self) -> dict[str, float]:
        """What each stage took so far."""
        return {name: run.seconds for name, run in self.runs.items()}

    def _storage(self) -> Any:
        self.root.cache.mkdir(exist_ok=True)
        return self.root.cache
