"""The rows of `tasks.stage_policy.TASK_POLICIES` at work: Prefect's own engine and cache with each stage's own options, faults put in from outside."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Task

from indexmill.configs.datasets import HuggingFaceDatasetConfig
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage.errors import InputError
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.stage_policy import STAGES, TASK_POLICIES
from tests.conftest import Build
from tests.sources.hub_datasets import open_fake_hub
from tests.tasks.test_stage_policy import TASKS


def stage(name: str, body: Callable[[], Any]) -> tuple[Task[..., Any], dict[str, str]]:
    """The stage's task with another body under the same signature, and an input for each parameter but the root."""
    signature = inspect.signature(TASKS[name].fn)

    def called(*inputs: Any, **named: Any) -> Any:
        return body()

    called.__signature__ = signature.replace(return_annotation=signature.empty)  # type: ignore[attr-defined]
    task = TASKS[name].with_options()
    task.fn = called
    return task, {parameter: f"some {parameter}" for parameter in signature.parameters if parameter != "root"}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that Prefect waited before another try, and tenacity before another call, without the waiting."""
    waits: list[float] = []
    for module in ("prefect.task_engine.time", "tenacity.nap.time"):
        monkeypatch.setattr(module, SimpleNamespace(sleep=waits.append, time=time.time))
    return waits


def expected(name: str) -> list[float]:
    """The waits of a row on average."""
    policy = TASK_POLICIES[name].retry
    return list(policy.waits_s) if policy else []


@pytest.mark.parametrize("name", TASK_POLICIES)
def test_a_passing_fault_is_tried_again_as_often_as_the_table_says(name: str, server: str, root: Root, slept: list[float]) -> None:
    """One try, or four with 2, 4 and 8 seconds between them, then the fault itself comes out."""
    tries: list[int] = []

    def broken() -> None:
        tries.append(1)
        raise ConnectionResetError("gone")

    task, inputs = stage(name, broken)
    given = {"root": root, **inputs} if "root" in inspect.signature(TASKS[name].fn).parameters else inputs
    state = task.with_options(result_storage=root.cache)(**given, return_state=True)
    with pytest.raises(ConnectionResetError):
        state.result()
    waits = expected(name)
    assert len(tries) == 1 + len(waits)
    assert len(slept) == len(waits)
    assert all(0.6 * wait - 0.1 < waited < 1.5 * wait for wait, waited in zip(waits, slept, strict=True)), slept


@pytest.mark.parametrize("name", STAGES)
def test_a_record_is_believed_while_what_it_is_remembered_by_stands(name: str, server: str, root: Root) -> None:
    """The same inputs: not done again. Another value of any input in the row: done. Another of what is set aside: not done."""
    done: list[str] = []

    def body() -> Record:
        done.append(name)
        return Record(digest="d", files=())

    task, inputs = stage(name, body)

    def runs(**changes: str) -> bool:
        before, stages = len(done), StageRunner(root)
        stages.run(task, *(inputs | changes).values())
        assert stages.runs[name].cached is (len(done) == before)
        return len(done) > before

    assert runs()
    assert not runs()
    assert not any(runs(**{parameter: "another"}) for parameter in TASK_POLICIES[name].uncached_inputs)
    assert all(runs(**{parameter: "another"}) for parameter in TASK_POLICIES[name].cache_inputs)
    assert not runs()


def test_a_record_is_believed_only_with_its_files(server: str, root: Root) -> None:
    """A file that is gone or has another size: done again. One of the same size with other bytes: only where digests are looked at."""
    path = root.dataset("some", "split", "d" * 16) / "items.parquet"
    done: list[int] = []

    def body() -> Record:
        done.append(1)
        root.scratch.write_text(path, "whole")
        return Record(digest="d", files=(root.make_ref(path),))

    task, inputs = stage("split", body)

    def runs(**how: Any) -> bool:
        before = len(done)
        StageRunner(root, **how).run(task, *inputs.values())
        return len(done) > before

    assert runs()
    assert not runs()
    path.unlink()
    assert runs()
    path.write_text("too long")
    assert runs()
    path.write_text("WHOLE")
    assert not runs()
    assert runs(thorough=True)
    assert not runs(thorough=True)
    assert runs(refresh=frozenset({"split"}))
    assert not runs(refresh=frozenset({"tune"}))


FAULTY = {
    "ingest": "indexmill.tasks.ingest._listing",
    "validate": "indexmill.tasks.validate._check_rows",
    "split": "indexmill.tasks.split.find_leaks",
    "encode": "indexmill.tasks.encode.partition_items",
    "train": "indexmill.tasks.train.reuse_or_train",
    "shard": "indexmill.tasks.shard.build_shards",
    "tune": "indexmill.tasks.tune._record",
    "evaluate": "indexmill.tasks.evaluate.open_searcher",
    "publish": "indexmill.tasks.publish.serve",
}


def test_a_build_that_fails_in_a_stage_runs_it_once_and_goes_on_there(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """A fault in every stage of one pipeline, one after another: each is met once, and no build does again what an earlier one finished.

    All but ingest meet a broken connection, which would pass and is not tried again there; ingest meets a lasting fault.
    """
    met: list[str] = []
    for name in STAGES:
        fault = InputError("this will not pass") if name == "ingest" else ConnectionResetError("gone")

        def broken(*inputs: Any, fault: Exception = fault, name: str = name, **named: Any) -> Any:
            met.append(name)
            raise fault

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FAULTY[name], broken)
            with pytest.raises(type(fault)):
                quick_build(pictures)
    assert met == list(STAGES)
    summary = quick_build(pictures)
    assert {name for name, run in summary["stages"].items() if not run["cached"]} == {"publish"}
    assert not list((tmp_path / "root" / "tmp").glob("*-*"))


def test_a_hub_that_is_away_for_a_while_delays_ingest_and_does_not_end_it(
    server: str, root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    """The real client and a hub that breaks off twice as often as a call is patient: two tries of ingest fail, the third lists all."""
    config = HuggingFaceDatasetConfig(source="huggingface", id="ours/texts", text_column="sentence")
    with open_fake_hub(monkeypatch, tmp_path) as hub:
        hub.fail("GET /api/datasets/ours/texts/revision", *["cut"] * 8)
        dataset = StageRunner(root).run(ingest, "some", config, "r", False)
        assert dataset.items == 3
        asked = hub.count_requests("GET /api/datasets/ours/texts/revision")
        assert StageRunner(root).run(ingest, "some", config, "r", False) == dataset
        assert hub.count_requests("GET /api/datasets/ours/texts/revision") == asked
    waits = [1, 2, 4, 2, 1, 2, 4, 4]  # three within a try of the stage, and one before its next
    assert asked == 4 + 4 + 2
    assert len(slept) == len(waits)
    assert all(0.6 * wait - 0.1 < waited < 1.5 * wait + 0.1 for wait, waited in zip(waits, slept, strict=True)), slept
