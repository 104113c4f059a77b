"""Run an embedded Prefect server that starts in the background and ends with its process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from indexmill.flows.prefect_server import check_server, get_configured_url
from indexmill.flows.server_process import ServerProcess, start_server


@contextmanager
def embedded_server(started: ServerProcess | None = None) -> Iterator[Callable[[], None]]:
    """Start a temporary Prefect server in the background; yields a function that waits until it answers.

    In the block, PREFECT_API_URL names the server, which stops at the end. Where a server is configured, it is checked,
    and nothing is started. Prefect would start such a server itself, but only at the first flow run, after importing all
    of the server into this process, and would leave it running if this process were killed.

    Args:
        started: A server that was started before, to be used instead of another one. Whoever started it stops it.
    """
    if url := get_configured_url():
        check_server(url)
        yield lambda: None
        return
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    with (
        nullcontext(started) if started else start_server(settings) as server,
        temporary_settings({PREFECT_API_URL: server.url}),
    ):
        try:
            yield lambda: _wait_for_server(server.url, server.process)
        finally:
            # Send what is still queued while the server runs; afterwards Prefect would retry for a minute.
            for sender in (APILogWorker, EventsWorker):
                sender.drain_all(timeout=10)


def _wait_for_server(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers. Raises RuntimeError if it ends, or does not answer in time."""
    end = time.monotonic() + get_current_settings().server.ephemeral.startup_timeout_seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=max(0.1, end - time.monotonic())).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the embedded Prefect server has not started (exit code {process.poll()})")
