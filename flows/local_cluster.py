"""Start a Dask scheduler, workers and an S3 server on 127.0.0.1, to try builds on several machines on one (`make cluster`).

Each is a child process with a log file. All of them end with this process: on Ctrl-C, on SIGTERM, when the terminal is closed,
when the process that started this one is gone, and when one of them ends by itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from indexmill.flows.cli.options import exit_on_error
from indexmill.storage.errors import IndexmillError, InputError
from indexmill.storage.permissions import apply_umask

START_SECONDS, STOP_SECONDS = 120, 5
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_REGION": "us-east-1"}
ALLOWED_FAILURES = {"distributed.scheduler.allowed-failures": 2}  # with three workers lost, a job ends the build


@dataclass(frozen=True)
class ClusterOptions:
    """What to start, and where.

    Attributes:
        folder: The folder for logs, objects and the workers' temporaries.
        dask_port: The scheduler's port.
        s3_port: The port of the S3 server, which also takes the next three, and all four plus 10,000.
        workers: The number of worker processes.
    """

    folder: Path
    dask_port: int
    s3_port: int
    workers: int

    @property
    def scheduler(self) -> str:
        """The address of the scheduler."""
        return f"tcp://127.0.0.1:{self.dask_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a client of the S3 server, by which it knows its only user, too."""
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}", **CREDENTIALS}


@dataclass(frozen=True)
class Service:
    """A child process, its name for users, and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def build_commands(options: ClusterOptions) -> dict[str, list[str]]:
    """Build the command line of each service. All of them listen on 127.0.0.1 only."""
    ports = dict(zip(("s3", "master", "volume", "filer"), range(options.s3_port, options.s3_port + 4), strict=True))
    weed = [str(Path(sys.executable).with_name("weed")), "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    weed += [f"-dir={options.folder / 's3'}", "-filer", "-s3", *(f"-{name}.port={port}" for name, port in ports.items())]
    weed += ["-master.volumeSizeLimitMB=512", "-volume.max=40", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    weed += ["-master.telemetry=false", "-volume.preStopSeconds=0"]
    dask, local = [sys.executable, "-m", "distributed.cli"], ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = [*dask[:2], f"{dask[2]}.dask_scheduler", *local, "--port", str(options.dask_port)]
    worker = [*dask[:2], f"{dask[2]}.dask_worker", options.scheduler, *local, "--nworkers", str(options.workers), "--nthreads", "1"]
    return {"S3 server": weed, "scheduler": scheduler, "workers": [*worker, "--local-directory", str(options.folder / "dask")]}


def build_dask_variables(settings: Mapping[str, object]) -> dict[str, str]:
    """Build the environment variables that Dask reads these settings from."""
    return {f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": str(value) for name, value in settings.items()}


@contextmanager
def run_cluster(options: ClusterOptions, stop: threading.Event) -> Iterator[list[Service]]:
    """Start all services, wait until a build can use them, and end them after the block.

    Raises:
        InputError: A service has ended, or does not answer within two minutes.
    """
    from indexmill.tasks.cluster.dask_runner import IDLE_SETTINGS

    environment = os.environ | options.environment | build_dask_variables(ALLOWED_FAILURES | IDLE_SETTINGS)
    environment |= {"PREFECT_HOME": str(options.folder / "prefect"), "DO_NOT_TRACK": "1"}
    services: list[Service] = []
    (options.folder / "s3").mkdir(parents=True, exist_ok=True)
    try:
        for name, command in build_commands(options).items():
            log = options.folder / f"{name.replace(' ', '-').lower()}.log"
            with log.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603 (the commands above)
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
                )
            services.append(Service(name, process, log))
        _wait_until_ready(options, services, stop)
        yield services
    finally:
        _end(services)


def watch(services: list[Service], stop: threading.Event) -> None:
    """Wait for `stop`. Raises InputError when a service ends before."""
    parent = os.getppid()
    while not stop.wait(0.2) and os.getppid() == parent:
        check_alive(services)


def check_alive(services: list[Service]) -> None:
    """Raise InputError when a service has ended."""
    for service in services:
        if service.process.poll() is not None:
            lines = service.log.read_text(errors="replace").strip().splitlines()
            raise InputError(
                f"the {service.name} has ended",
                where=str(service.log),
                got=lines[-1][:200] if lines else f"exit code {service.process.returncode}",
                next_step="end what else uses its port, or choose others: make cluster DASK_PORT=8796 S3_PORT=8343",
            )


def _wait_until_ready(options: ClusterOptions, services: list[Service], stop: threading.Event) -> None:
    checks = [_is_store_ready, _are_workers_ready]
    for _ in range(START_SECONDS):
        check_alive(services)
        while checks and checks[0](options):
            checks.pop(0)
        if not checks or stop.wait(1):
            return
    raise InputError("the cluster is not ready", where=str(options.folder), expected=f"answers within {START_SECONDS} s")


def _is_store_ready(_: ClusterOptions) -> bool:
    from indexmill.storage.object_client import ObjectClient

    try:
        ObjectClient("s3://demo/start", patience_seconds=1).check_conditional_writes()
    except IndexmillError:
        return False
    return True


def _are_workers_ready(options: ClusterOptions) -> bool:
    from distributed import Client

    try:
        with Client(options.scheduler, timeout=5, set_as_default=False) as client:
            client.wait_for_workers(options.workers, timeout=1)
    except (OSError, TimeoutError):
        return False
    return True


def _end(services: list[Service]) -> None:
    """Ask all services to end, the workers first, and kill what is left of them."""
    for service in reversed(services):
        with suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGTERM)
    for service in reversed(services):
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait()


def _parse_options() -> ClusterOptions:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--dask-port", type=int, default=8786)
    parser.add_argument("--s3-port", type=int, default=8333)
    parser.add_argument("--workers", type=int, default=2)
    values = parser.parse_args()
    return ClusterOptions(values.root.resolve() / "cluster", values.dask_port, values.s3_port, values.workers)


def main() -> None:
    """Start the cluster, print what to do with it, and wait for Ctrl-C."""
    options, stop = _parse_options(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    apply_umask()
    os.environ.update(options.environment)
    typer.echo(f"Starting a Dask scheduler, {options.workers} workers and an S3 server; logs are in {options.folder}")
    with exit_on_error(), run_cluster(options, stop) as services:
        if not stop.is_set():
            variables = " ".join(f"{name}={value}" for name, value in options.environment.items())
            typer.echo(f"Ready. In another shell:\n  export {variables}")
            typer.echo(f"  .venv/bin/indexmill build demo-text --root s3://demo/indexes --runner dask --runner-address {options.scheduler}")
            typer.echo("Ctrl-C ends all of them; objects are kept.")
        watch(services, stop)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
