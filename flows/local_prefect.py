"""Run an embedded Prefect server that starts in the background and ends with its process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from indexmill.flows.prefect_server import check_server, get_configured_url

STOP_TIMEOUT_S = 5.0


@contextmanager
def embedded_server() -> Iterator[Callable[[], None]]:
    """Start a temporary Prefect server in the background; yields a function that waits until it answers.

    In the block, PREFECT_API_URL names the server, which stops at the end. Where a server is configured, it is checked,
    and nothing is started. Prefect would start such a server itself, but only at the first flow run, after importing all
    of the server into this process, and would leave it running if this process were killed.
    """
    if url := get_configured_url():
        check_server(url)
        yield lambda: None
        return
    # The server inherits a socket that listens already: no port can be taken meanwhile, and early requests wait in line.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        process = _start_server(listener.fileno())
    watchdog = _start_watchdog(process.pid)
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield lambda: _wait_for_server(url, process)
            finally:
                # Send what is still queued while the server runs; afterwards Prefect would retry for a minute.
                for sender in (APILogWorker, EventsWorker):
                    sender.drain_all(timeout=10)
    finally:
        _stop(process)
        watchdog.communicate()


def _start_server(descriptor: int) -> subprocess.Popen[bytes]:
    """Start the server in its own process group.

    Ctrl-C, or a signal to the whole group, must not stop the server before the build has reported its final state.
    """
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
    server_settings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(
        [*command, "--fd", str(descriptor)], env=os.environ | server_settings | settings, process_group=0, pass_fds=(descriptor,)
    )


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


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start_watchdog(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills `pid` when this process ends, however it ends.

    The shell waits on a pipe that only this process holds open.
    """
    return subprocess.Popen(["sh", "-c", 'read -r _; kill -9 "$0" 2>/dev/null', str(pid)], stdin=subprocess.PIPE, start_new_session=True)
