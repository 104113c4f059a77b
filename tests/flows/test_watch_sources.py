"""New pictures start a build: seen by the watch, or told by an event."""

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
from tests.conftest import QUICK, Build

REPOSITORY = Path(__file__).parents[2]


def prefect(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """The command `prefect` as a user has it, against the tests' server."""
    environment = {**os.environ, "INDEXMILL_ROOT": str(root), "INDEXMILL_HOME": str(REPOSITORY), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )


def runs_of(name: str) -> list[FlowRun]:
    """The runs of a deployment that were asked for, not those of its schedule."""

    async def read() -> list[FlowRun]:
        async with get_client() as client:
            found = await client.read_flow_runs(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])))
            return [run for run in found if not run.auto_scheduled]

    return asyncio.run(read())


def forget_runs() -> None:
    """Remove the runs that nobody worked on, so that no worker of another test takes them."""

    async def delete(runs: list[FlowRun]) -> None:
        async with get_client() as client:
            for run in runs:
                await client.delete_flow_run(run.id)

    asyncio.run(delete(runs_of("demo-images")))


@pytest.fixture
def deployed(server: str, tmp_path: Path) -> Iterator[None]:
    """demo-images on the server, with nobody to work on it."""
    provision_server()
    done = prefect("--no-prompt", "deploy", "--name", "demo-images", root=tmp_path / "root")
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    forget_runs()


def test_a_build_is_started_when_its_source_has_changed_and_only_then(
    quick_build: Build, pictures: Path, deployed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the last build saw it: nothing. A picture more: one run. A source that is gone is told and holds up nobody."""
    root = tmp_path / "root"
    quick_build(pictures)
    config = load_config("demo-images", [f"dataset.path={pictures}"])
    gone = load_config("demo-images", [f"dataset.path={pictures / 'nowhere'}"])
    monkeypatch.setattr("indexmill.flows.watch_sources.load_config", lambda name, settings: gone if name == "gone" else config)
    before = len(runs_of("demo-images"))
    assert watch_sources(["gone", "demo-images"], str(root)) == {"gone": "the image folder does not exist", "demo-images": "unchanged"}
    assert len(runs_of("demo-images")) == before
    (pictures / "0" / "new.png").write_bytes(next(pictures.rglob("*.png")).read_bytes())
    plan_index("demo-images", str(root), [f"dataset.path={pictures}", "encoder.precision=float32", *QUICK])  # to plan is not to build
    assert watch_sources(["demo-images"], str(root)) == {"demo-images": "started"}
    assert len(runs_of("demo-images")) == before + 1
    assert watch_sources(None, str(root)) == {"demo-images": "started"}  # until a build has seen it
    quick_build(pictures)
    assert watch_sources(None, str(root)) == {"demo-images": "unchanged"}


def test_who_knows_that_items_have_landed_can_say_so(deployed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`indexmill notify demo-images`: the trigger in prefect.yaml starts a run of that deployment; an unknown name is refused."""
    before = len(runs_of("demo-images"))
    assert "indexmill.items-landed of demo-images" in emit_items_landed("demo-images")
    end = time.monotonic() + 60
    while len(runs_of("demo-images")) == before and time.monotonic() < end:
        time.sleep(0.5)
    assert len(runs_of("demo-images")) == before + 1
    with pytest.raises(InputError):
        emit_items_landed("no-such-pipeline")
