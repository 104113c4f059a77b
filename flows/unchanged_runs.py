"""Answer a build or a plan from cached records alone, if no stage has work to do.

Prefect's embedded server takes longer to start than everything else on a night without changes, so it is not started
for one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from prefect import Task
from prefect.utilities.callables import get_call_parameters

from indexmill.configs.exports import ExportConfig
from indexmill.flows.build_index import is_live_snapshot_intact, run_stages
from indexmill.flows.exports import describe_repetition, raise_if_failed
from indexmill.flows.pipeline_context import open_pipeline
from indexmill.flows.plan_index import plan_stages
from indexmill.flows.result_store import RecordStorage
from indexmill.flows.stage_runner import StageRun, StageRunner
from indexmill.storage.errors import DamagedFile, IndexmillError
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.storage.stopping import Stopped
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.exports.run import ExportResult, find_unchanged
from indexmill.tasks.runner import LOCAL_RUNNER
from indexmill.tasks.stage_policy import TASK_POLICIES, compute_stage_key

R = TypeVar("R", bound=Record)


class StageHasWork(Exception):
    """A stage has no cached record that is still valid."""


def find_unchanged_build(config: str, root: str, settings: Sequence[str], force: str | None) -> dict[str, Any] | None:
    """Return the summary of a build in which no stage has work; None if one has, or the build would fail.

    The arguments are those of the flow `build_index`, which is to be run if this returns None: it reports errors where
    the pipeline says.

    Raises:
        Stopped: A signal asked this process to end.
    """
    try:
        with (
            open_pipeline(config, root, settings) as (pipeline, storage_root),
            storage_root.hold_shared(),
            storage_root.lease_index(pipeline.name, "build-index"),
        ):
            storage_root.remove_stale_temporaries()
            stages = CachedStages(storage_root)
            summary = run_stages(
                pipeline, stages, LOCAL_RUNNER, process=_NoEncoderProcess(), force=force, run_export=_require_unchanged_export
            )
            raise_if_failed(summary.exports, pipeline.name, describe_repetition(storage_root, pipeline.name))
            return summary.to_json() if is_live_snapshot_intact(storage_root, pipeline.name) else None
    except Stopped:  # an IndexmillError, too, but the flow must not run after it
        raise
    except (StageHasWork, IndexmillError):
        return None


def find_unchanged_plan(config: str, root: str, settings: Sequence[str]) -> dict[str, Any] | None:
    """Return the plan if the stages before encoding have no work; None if one has.

    Raises:
        IndexmillError: As the flow `plan_index` would.
    """
    try:
        with open_pipeline(config, root, settings) as (pipeline, storage_root), storage_root.lease_index(pipeline.name, "plan-index"):
            return plan_stages(pipeline, CachedStages(storage_root), _NoEncoderProcess())
    except (StageHasWork, DamagedFile):
        return None


@dataclass
class CachedStages(StageRunner):
    """Takes the record of every stage from the cache, by the key that Prefect gives it."""

    def run(self, stage: Task[..., R], *inputs: Any, staleness_check: Callable[[R], str] = lambda record: "", **named_inputs: Any) -> R:
        """Return the stage's cached record for these inputs. Raises StageHasWork if there is none that is valid."""
        start = time.perf_counter()
        arguments = get_call_parameters(stage.fn, (self.root, *inputs), named_inputs)
        record = RecordStorage.for_root(self.root).read_record(compute_stage_key(stage.name, TASK_POLICIES[stage.name], arguments))
        if record is None or self.root.find_invalid_files(record) or staleness_check(cast(R, record)):
            raise StageHasWork(stage.name)
        self.runs[stage.name] = StageRun(round(time.perf_counter() - start, 3), cached=True)
        return cast(R, record)


def _require_unchanged_export(root: Root, name: str, config: ExportConfig) -> ExportResult:
    if result := find_unchanged(root, name, config):
        return result
    raise StageHasWork("export")


class _NoEncoderProcess(EncoderProcess):
    """Stands for the encoding process in a run that has nothing to encode."""

    def _start(self) -> NoReturn:
        raise StageHasWork("encode")
