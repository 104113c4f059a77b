"""New items start a build: because the watch finds a new revision, or because an event reports them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun

from indexmill.configs.loading import load_config
from indexmill.flows.deployments import emit_items_landed, provision_server
from indexmill.flows.plan_index import plan_index
from indexmill.flows.watch_sources import watch_sources
from indexmill.storage.errors import InputError
from tests.conftest import SETTINGS, Build

REPOSITORY = Path(__file__).parents[2]


def prefect(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run the command `prefect` as a user does, against the tests' server."""
    environment = {**os.environ, "INDEXMILL_ROOT": str(root), "INDEXMILL_HOME": str(REPOSITORY), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900
    )


def list_runs(name: str) -> list[FlowRun]:
    """The runs of a deployment that were started, without the scheduled ones."""

    async def read() -> list[FlowRun]:
        async with get_client() as client:
            runs = await client.read_flow_runs(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])))
            return [run for run in runs if not run.auto_scheduled]

    return asyncio.run(read())


def delete_runs() -> None:
    """Delete the runs that no worker took, so that no worker of another test takes them."""

    async def delete(runs: list[FlowRun]) -> None:
        async with get_client() as client:
            for run in runs:
                await client.delete_flow_run(run.id)

    asyncio.run(delete(list_runs("demo-images")))


@pytest.fixture(scope="module")
def deployed(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The deployment demo-images on the server, without a worker."""
    provision_server()
    run = prefect("--no-prompt", "deploy", "--name", "demo-images", root=tmp_path_factory.mktemp("deployed") / "root")
    assert run.returncode == 0, run.stdout + run.stderr
    yield
    delete_runs()


def test_a_build_is_started_only_when_its_source_has_changed(
    next_build: Build, pictures: Path, deployed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged since the last build: no run. One more image: one run. A missing source is reported and stops no other.

    The pictures are a copy of those in the finished build, with their times.
    """
    root = tmp_path / "root"
    config = load_config("demo-images", [f"dataset.path={pictures}"])
    gone = load_config("demo-images", [f"dataset.path={pictures / 'nowhere'}"])
    monkeypatch.setattr("indexmill.flows.watch_sources.load_config", lambda name, settings: gone if name == "gone" else config)
    before = len(list_runs("demo-images"))
    assert watch_sources(["gone", "demo-images"], str(root)) == {"gone": "the image folder does not exist", "demo-images": "unchanged"}
    assert len(list_runs("demo-images")) == before
    (pictures / "0" / "new.png").write_bytes(next(pictures.rglob("*.png")).read_bytes())
    plan_index("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS])  # a plan is no build
    assert watch_sources(["demo-images"], str(root)) == {"demo-images": "started"}
    assert len(list_runs("demo-images")) == before + 1
    assert watch_sources(None, str(root)) == {"demo-images": "started"}  # until a build has seen the image
    next_build(pictures)
    assert watch_sources(None, str(root)) == {"demo-images": "unchanged"}


def test_an_event_that_items_have_landed_starts_a_build(deployed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`indexmill notify demo-images`: the trigger in prefect.yaml starts a run of that deployment; an unknown name is refused."""
    before = len(list_runs("demo-images"))
    assert "indexmill.items-landed of demo-images" in emit_items_landed("demo-images")
    deadline = time.monotonic() + 300
    while len(list_runs("demo-images")) == before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(list_runs("demo-images")) == before + 1
    with pytest.raises(InputError):
        emit_items_landed("no-such-pipeline")
