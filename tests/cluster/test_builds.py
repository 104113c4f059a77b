"""Whole builds on a Dask or Ray cluster: the snapshot of a local build, whatever happens to workers and driver.

Those in which nothing happens are left to INDEXMILL_SOAK (`make soak`), where the same build with a killed worker, or on Ray
with its root in a store, is tested anyway.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

from indexmill.storage.object_client import ObjectClient
from tests.cluster.conftest import REPOSITORY, DaskCluster
from tests.cluster.dying import count_open_kills, order_kills
from tests.conftest import SETTINGS, Build, FinishedBuild
from tests.faults.killing import arguments, check_consistency, read_items
from tests.storage.object_server import SECRET

pytestmark = pytest.mark.slow

LONG = "INDEXMILL_SOAK" in os.environ

STAGES = {"image_checks/": "validate", "/embeddings/": "encode", "/block-": "evaluate", "/shards/": "shard"}


CHUNKS = "encoder.chunk_rows=20"  # six encode jobs


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """The exact search of the digits' 96 or so items takes three jobs."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("ground_truth", "search_jobs"):
            patch.setattr(f"indexmill.tasks.evaluation.{module}.BLOCK_ITEMS", 40)
        yield


@pytest.fixture(scope="module")
def local_build(server: str, small_blocks: None, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedBuild:
    """The digits built in this process, in jobs of the same size. The last bits of scores depend on it."""
    from indexmill.flows.build_index import build_index

    root = tmp_path_factory.mktemp("local") / "root"
    return FinishedBuild(root, build_index("demo-images", str(root), [f"dataset.path={digits}", *SETTINGS, CHUNKS]))


def read_vectors(root: Path) -> dict[str, list[float]]:
    """Content digest -> vector."""
    tables = [pq.read_table(part) for part in sorted(root.glob("embeddings/*/part-*.parquet"))]
    return {row["content_digest"]: row["embedding"] for table in tables for row in table.to_pylist()}


def check_equal(summary: dict[str, Any], root: Path, undisturbed: FinishedBuild) -> None:
    """Same snapshot id, items, metrics and vectors; nothing left behind."""
    assert summary["metrics"] == undisturbed.summary["metrics"]
    assert read_items(summary) == read_items(undisturbed.summary)
    assert summary["snapshot_id"] == undisturbed.summary["snapshot_id"]
    vectors, expected = read_vectors(root), read_vectors(undisturbed.root)
    assert vectors.keys() == expected.keys()
    assert max(np.abs(np.subtract(vectors[digest], expected[digest])).max() for digest in expected) < 1e-5
    check_consistency(root)
    assert not list((root / "jobs").glob("*"))


@pytest.mark.parametrize("text", ["nothing", *STAGES] if LONG else STAGES)
def test_a_build_on_dask_equals_a_local_one_even_if_a_worker_is_killed(
    text: str,
    dask_cluster: DaskCluster,
    build: Build,
    local_build: FinishedBuild,
    digits: Path,
    tmp_path: Path,
) -> None:
    """Killed before it commits a part of the image checks, vectors, a result of the exact search, or a file of a shard."""
    order_kills(dask_cluster.kill_file, text, 1)
    summary = build(digits, *SETTINGS, CHUNKS, *dask_cluster.settings)
    assert count_open_kills(dask_cluster.kill_file) == (text == "nothing")
    check_equal(summary, tmp_path / "root", local_build)


def test_a_build_whose_driver_was_killed_continues_with_the_finished_parts(
    dask_cluster: DaskCluster, build: Build, local_build: FinishedBuild, digits: Path, tmp_path: Path
) -> None:
    """Killed after the first of six parts, while the workers are busy with others."""
    root = tmp_path / "root"
    settings = [CHUNKS, *dask_cluster.settings]
    command = [sys.executable, "-m", "indexmill", *arguments(root, digits, *settings)]
    driver = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not list(root.glob("embeddings/*/part-*.parquet")):
        assert driver.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    summary = build(digits, *SETTINGS, *settings)
    assert 0 < summary["encoded"] <= 100
    check_equal(summary, root, local_build)


def list_unfinished_chunks() -> list[str]:
    """List the runs of six encode chunks that the server does not show as ended."""
    of_six = TaskRunFilter(name=TaskRunFilterName(like_="encode chunk"))
    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_task_runs(task_run_filter=of_six, limit=200) if " of 6 " in run.name]
        return [run.name for run in runs if run.state and not run.state.is_final()]


def test_a_stopped_build_shows_no_run_as_running(dask_cluster: DaskCluster, digits: Path, server: str, tmp_path: Path) -> None:
    """SIGTERM while the workers encode: the driver ends at once after the next part, with Cancelled runs."""
    root = tmp_path / "root"
    command = [sys.executable, "-m", "indexmill", *arguments(root, digits, CHUNKS, *dask_cluster.settings)]
    driver = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)
    end = time.monotonic() + 300
    while not list(root.glob("embeddings/*/part-*.parquet")):
        assert driver.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 143, output.decode()[-2000:]
    end = time.monotonic() + 120
    while unfinished := list_unfinished_chunks():  # a task that has started may still finish, and then says so
        assert time.monotonic() < end, unfinished
        time.sleep(0.5)


@pytest.mark.parametrize(("runner", "text"), [*([("dask", "nothing")] if LONG else []), ("dask", "/embeddings/"), ("ray", "nothing")])
def test_a_build_on_a_cluster_with_its_root_in_a_store_equals_a_local_one(
    runner: str, text: str, dask_cluster: DaskCluster, build: Build, local_build: FinishedBuild, digits: Path, bucket_url: str
) -> None:
    """Workers have a cache of their own: they read from the store and write to it. On Dask, one of them is killed, too."""
    order_kills(dask_cluster.kill_file, text, 1)
    settings = dask_cluster.settings if runner == "dask" else ["run.runner=ray", "run.workers=2"]
    summary = build(digits, *SETTINGS, CHUNKS, *settings, root=bucket_url)
    assert count_open_kills(dask_cluster.kill_file) == (text == "nothing")
    assert summary["metrics"] == local_build.summary["metrics"]
    assert read_items(summary) == read_items(local_build.summary)
    assert summary["snapshot_id"] == local_build.summary["snapshot_id"]
    client = ObjectClient(bucket_url)
    assert [entry.key for entry in client.list("jobs")] == []
    contents = (client.read(entry.key) for entry in client.list())
    assert not [content for content in contents if content and SECRET.encode() in content.data]
