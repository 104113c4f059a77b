"""The rows of `tasks.stage_policy.TASK_POLICIES` in effect: Prefect's engine and cache, with injected faults."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
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


def replace_body(name: str, body: Callable[[], Any]) -> tuple[Task[..., Any], dict[str, str]]:
    """Return the stage's task with another body under the same signature, and an input for each parameter but the root."""
    signature = inspect.signature(TASKS[name].fn)

    def call(*inputs: Any, **named: Any) -> Any:
        return body()

    call.__signature__ = signature.replace(return_annotation=signature.empty)  # type: ignore[attr-defined]
    task = TASKS[name].with_options()
    task.fn = call
    return task, {parameter: f"some {parameter}" for parameter in signature.parameters if parameter != "root"}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that Prefect would wait before another attempt, and tenacity before another call; nobody waits."""
    seconds: list[float] = []
    for module in ("prefect.task_engine.time", "tenacity.nap.time"):
        monkeypatch.setattr(module, SimpleNamespace(sleep=seconds.append, time=time.time))
    return seconds


def list_mean_waits(name: str) -> list[float]:
    """Return the waits of a row, without jitter."""
    policy = TASK_POLICIES[name].retry
    return list(policy.waits_s) if policy else []


def list_rows(names: Iterable[str], *quick: str) -> list[Any]:
    """Return the names of rows, all but the given ones marked slow: one row of each kind shows that Prefect does what they say."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", list_rows(TASK_POLICIES, "ingest", "split", "job"))
def test_a_transient_error_is_retried_as_often_as_the_table_says(name: str, server: str, root: Root, waits: list[float]) -> None:
    """One attempt, or four with 2, 4 and 8 seconds between them, then the error itself is raised."""
    attempts: list[int] = []

    def fail() -> None:
        attempts.append(1)
        raise ConnectionResetError("gone")

    task, inputs = replace_body(name, fail)
    arguments = {"root": root, **inputs} if "root" in inspect.signature(TASKS[name].fn).parameters else inputs
    state = task.with_options(result_storage=root.cache)(**arguments, return_state=True)
    with pytest.raises(ConnectionResetError):
        state.result()
    means = list_mean_waits(name)
    assert len(attempts) == 1 + len(means)
    assert len(waits) == len(means)
    assert all(0.6 * mean - 0.1 < wait < 1.5 * mean for mean, wait in zip(means, waits, strict=True)), waits


@pytest.mark.parametrize("name", list_rows(STAGES, "ingest", "split", "encode"))
def test_a_record_is_cached_until_an_input_of_its_key_changes(name: str, server: str, root: Root) -> None:
    """Another value of any input in the key runs the stage again; another value of an uncached input does not."""
    calls: list[str] = []

    def body() -> Record:
        calls.append(name)
        return Record(digest="d", files=())

    task, inputs = replace_body(name, body)

    def runs(**changes: str) -> bool:
        before, stages = len(calls), StageRunner(root)
        stages.run(task, **(inputs | changes))
        assert stages.runs[name].cached is (len(calls) == before)
        return len(calls) > before

    assert runs()
    assert not runs()
    assert not any(runs(**{parameter: "another"}) for parameter in TASK_POLICIES[name].uncached_inputs)
    assert all(runs(**{parameter: "another"}) for parameter in TASK_POLICIES[name].cache_inputs)
    assert not runs()


def test_a_record_is_valid_only_with_its_files(server: str, root: Root) -> None:
    """A file that is missing or has another size invalidates it; other bytes of the same size only where digests are checked."""
    path = root.dataset("some", "split", "d" * 16) / "items.parquet"
    calls: list[int] = []

    def body() -> Record:
        calls.append(1)
        root.scratch.write_text(path, "whole")
        return Record(digest="d", files=(root.make_ref(path),))

    task, inputs = replace_body("split", body)

    def runs(**options: Any) -> bool:
        before = len(calls)
        StageRunner(root, **options).run(task, *inputs.values())
        return len(calls) > before

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


# A function that each stage calls.
FAULTY = {
    "ingest": "indexmill.tasks.ingest._iterate_listing",
    "validate": "indexmill.tasks.validate._check_rows",
    "split": "indexmill.tasks.split.find_leaks",
    "encode": "indexmill.tasks.encode.partition_items",
    "train": "indexmill.tasks.train.reuse_or_train",
    "shard": "indexmill.tasks.shard.build_shards",
    "tune": "indexmill.tasks.tune._make_record",
    "evaluate": "indexmill.tasks.evaluate.open_searcher",
    "publish": "indexmill.tasks.publish.build_served_shards",
}


@pytest.mark.slow
def test_a_build_that_fails_in_a_stage_continues_there_the_next_time(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """An error in every stage of one pipeline, one after another: each is raised once, and no build repeats a finished stage.

    All but ingest meet a broken connection, which is transient and yet not retried there; ingest meets a lasting error.
    """
    failed: list[str] = []
    assert set(STAGES) - set(FAULTY) == {"chunk", "queries"}, "stages that a pipeline has only if its config asks for them"
    for name in FAULTY:
        error = InputError("lasting") if name == "ingest" else ConnectionResetError("gone")

        def fail(*inputs: Any, _error: Exception = error, _stage: str = name, **named_inputs: Any) -> Any:
            failed.append(_stage)
            raise _error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FAULTY[name], fail)
            with pytest.raises(type(error)):
                quick_build(pictures)
    assert failed == [name for name in STAGES if name in FAULTY] == list(FAULTY)
    summary = quick_build(pictures)
    assert {name for name, run in summary["stages"].items() if not run["cached"]} == {"publish"}
    assert not list((tmp_path / "root" / "tmp").glob("*-*"))


def test_a_hub_that_is_away_for_a_while_delays_ingest(
    server: str, root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """With the real client, and a hub that fails twice as often as one call retries: two attempts of ingest fail, the third succeeds."""
    config = HuggingFaceDatasetConfig(source="huggingface", id="ours/texts", text_column="sentence")
    with open_fake_hub(monkeypatch, tmp_path) as hub:
        hub.fail("GET /api/datasets/ours/texts/revision", *["cut"] * 8)
        dataset = StageRunner(root).run(ingest, "some", config, "r", False)
        assert dataset.items == 3
        requests = hub.count_requests("GET /api/datasets/ours/texts/revision")
        assert StageRunner(root).run(ingest, "some", config, "r", False) == dataset
        assert hub.count_requests("GET /api/datasets/ours/texts/revision") == requests
    means = [1, 2, 4, 2, 1, 2, 4, 4]  # three within an attempt of the stage, and one before the next
    assert requests == 4 + 4 + 2
    assert len(waits) == len(means)
    assert all(0.6 * mean - 0.1 < wait < 1.5 * mean + 0.1 for mean, wait in zip(means, waits, strict=True)), waits
