"""`make up`, then `prefect deployment run build-index/… --watch` from another shell, as the documents describe it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from indexmill.flows.deployments import ZOMBIE_AUTOMATION
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.stage_policy import STAGES
from tests.conftest import QUICK
from tests.flows.postgres import find_free_port, find_program, postgres
from tests.test_docs import DEPLOYMENTS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"PYTHONPATH": str(REPOSITORY)}


class Up:
    """A running `make up`: its server's address, its root, its log and the URL of its database (empty: SQLite)."""

    def __init__(self, folder: Path, database: str) -> None:
        self.database, self.root, self.log, port = database, folder / "root", folder / "log", find_free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        Root(self.root)
        installed = folder / "installed"  # newer than its prerequisites, so make has nothing to install
        installed.touch()
        command = ["make", "up", f"INSTALLED={installed}", f"BIN={BIN}", f"ROOT={self.root}", f"PORT={port}"]
        environment = ENVIRONMENT | ({"DATABASE": database} if database else {})
        with self.log.open("wb") as log:
            self.make = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, process_group=0, preexec_fn=restore_ctrl_c
            )

    def wait_for_worker(self) -> None:
        deadline = time.monotonic() + 900
        while "started!" not in self.log.read_text(errors="replace").split("Worker")[-1]:
            assert time.monotonic() < deadline and self.make.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Prefect's command in a plain shell that knows the server's address and nothing else."""
        environment = ENVIRONMENT | {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.root / "shell")}
        command = [sys.executable, "-m", "prefect", *arguments]
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=900)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.make.pid).children(recursive=True)

    def stop(self) -> None:
        """Send Ctrl-C as a terminal does, and check that every process ends."""
        processes = self.processes()
        os.killpg(self.make.pid, signal.SIGINT)
        self.make.wait(300)
        psutil.wait_procs(processes, timeout=300)
        alive = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        for process in alive:
            process.kill()
        assert not alive, alive


def restore_ctrl_c() -> None:
    """As in a terminal; a process started in the background ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


HAS_POSTGRESQL = find_program("initdb") is not None
# Each takes minutes. With PostgreSQL there is more to go wrong; without it installed, SQLite stands for both.
DATABASES = (
    ["postgresql", "sqlite"] if HAS_POSTGRESQL and "INDEXMILL_SOAK" in os.environ else ["postgresql" if HAS_POSTGRESQL else "sqlite"]
)


@pytest.fixture(scope="module", params=DATABASES)
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    if request.param == "sqlite":
        up = Up(folder, "")
        yield from _up(up)
        return
    with postgres() as database:
        yield from _up(Up(folder, database))


def _up(up: Up) -> Iterator[Up]:
    try:
        up.wait_for_worker()
        yield up
    finally:
        up.stop()


def test_a_deployment_is_run_from_a_plain_shell(up: Up, digits: Path) -> None:
    """Run by name and watched to its end: the snapshot is live under the root of the worker."""
    settings = [f"dataset.path={digits}", "encoder.precision=float32", *QUICK]
    run = up.prefect("deployment", "run", "build-index/demo-images", "--watch", "--params", json.dumps({"settings": settings}))
    assert run.returncode == 0, run.stdout + run.stderr + up.log.read_text()[-3000:]
    snapshots = Snapshots(Root(up.root), "demo-images")
    snapshots.verify(snapshots.read_manifest())
    assert snapshots.read_manifest().items == 120


def test_the_server_has_every_deployment_with_its_schedule_and_parameters(up: Up) -> None:
    """As prefect.yaml describes them; the limit and the automation exist too."""
    deployments = {deployment["name"]: deployment for deployment in httpx.post(f"{up.url}/deployments/filter", json={}, timeout=300).json()}
    assert sorted(deployments) == sorted(deployment["name"] for deployment in DEPLOYMENTS)
    clip = deployments["clip"]
    assert [schedule["schedule"]["cron"] for schedule in clip["schedules"]] == ["20 3 * * *"]
    assert (clip["global_concurrency_limit"]["limit"], clip["concurrency_options"]["collision_strategy"]) == (1, "CANCEL_NEW")
    form = clip["parameter_openapi_schema"]["properties"]
    assert {name: bool(field["description"]) for name, field in form.items()} == dict.fromkeys(form, True)
    assert form["refresh"]["anyOf"][0]["enum"] == list(STAGES)
    assert httpx.get(f"{up.url}/v2/concurrency_limits/gpu", timeout=300).json()["limit"] == 1
    assert ZOMBIE_AUTOMATION in [
        automation["name"] for automation in httpx.post(f"{up.url}/automations/filter", json={}, timeout=300).json()
    ]


def test_runs_are_stored_in_the_configured_database_and_its_password_is_not_printed(up: Up) -> None:
    """PostgreSQL's tables have the deployments, no SQLite file is under the root, and neither log nor command line has the password."""
    files = [path.name for path in (up.root / "prefect").glob("prefect.db")]
    if not up.database:
        assert files == ["prefect.db"]
        return
    assert files == []
    assert asyncio.run(_read_names(up.database)) == sorted(deployment["name"] for deployment in DEPLOYMENTS)
    log = up.log.read_text()
    assert "secret" not in log
    assert not [process for process in up.processes() if "secret" in " ".join(process.cmdline())]


async def _read_names(database: str) -> list[str]:
    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    try:
        return [row["name"] for row in await connection.fetch("SELECT name FROM deployment ORDER BY name")]
    finally:
        await connection.close()
