"""Run a stage: reuse its cached record if that is still valid, otherwise run the task."""

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

# The names in STAGES, written out so that Prefect's form for a run can offer them.
StageName = Literal["ingest", "validate", "split", "chunk", "queries", "encode", "train", "shard", "tune", "evaluate", "publish"]


def select_stages_from(stage: str | None) -> frozenset[str]:
    """Return a stage and all later ones; nothing for None. Raises InputError for an unknown stage."""
    if stage is None:
        return frozenset()
    if stage not in STAGES:
        raise InputError("unknown stage", where="--refresh", expected="one of: " + ", ".join(STAGES), got=stage)
    return frozenset(STAGES[STAGES.index(stage) :])


@dataclass(frozen=True)
class StageRun:
    """How one stage went: wall-clock seconds, and whether its record came from the cache."""

    seconds: float
    cached: bool


@dataclass
class StageRunner:
    """Runs the stages of one build, and records how each one went.

    Args:
        root: Where records and files are stored.
        thorough: Check the digests of a cached record's files, not only their sizes.
        refresh: Stages to run even if their records are cached.
        runs: One entry per stage that has run, in order.
    """

    root: Root
    thorough: bool = False
    refresh: frozenset[str] = frozenset()
    runs: dict[str, StageRun] = field(default_factory=dict)

    def run(self, stage: Task[..., R], *inputs: Any, staleness_check: Callable[[R], str] = lambda record: "", **named_inputs: Any) -> R:
        """Return the stage's record for these inputs, from the cache if it is still valid.

        Args:
            stage: The task; the root is its first argument.
            inputs: Its other arguments.
            staleness_check: Returns the reason why a cached record must not be used; empty if there is none.
            named_inputs: Arguments passed by name.
        """
        start = time.perf_counter()
        with translate_disk_errors(self.root.path, f"in the stage {stage.name}"):
            state = self._call(stage, inputs, named_inputs, force_rerun=stage.name in self.refresh)
            record, cached = state.result(), state.name == "Cached"
            if cached and (self.root.find_invalid_files(cast(Record, record), thorough=self.thorough) or staleness_check(record)):
                record, cached = self._call(stage, inputs, named_inputs, force_rerun=True).result(), False
        self.runs[stage.name] = StageRun(round(time.perf_counter() - start, 3), cached)
        return record

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each stage so far."""
        return {name: run.seconds for name, run in self.runs.items()}

    def _call(self, stage: Task[..., R], inputs: tuple[Any, ...], named_inputs: dict[str, Any], *, force_rerun: bool) -> State[R]:
        self.root.cache.mkdir(exist_ok=True)
        stage = stage.with_options(refresh_cache=force_rerun)
        # Set on the copied task: passed as an option, the storage would have to be saved on the Prefect server.
        stage.result_storage = RecordStorage.for_root(self.root)
        return cast(State[R], stage(self.root, *inputs, **named_inputs, return_state=True))
