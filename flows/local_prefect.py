"""Run an embedded Prefect server that starts in the background and ends with its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from indexmill.flows.prefect_server import check_server, get_configured_url


class _DetachedServer(SubprocessASGIServer):
    """Prefect's embedded server, in its own process group.

    Ctrl-C, or a signal to the whole group, must not stop the server before the build has reported its final state.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
        server_settings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)], env=os.environ | server_settings | settings, process_group=0
        )


@contextmanager
def embedded_server() -> Iterator[Callable[[], None]]:
    """Start a temporary Prefect server in the background; yields a function that waits until it answers.

    The server stops at the end of the block. Where a server is configured, it is checked, and nothing is started. Prefect would start
    the same server itself, but only at the first flow run, and would leave it running if this process were killed.
    """
    if url := get_configured_url():
        check_server(url)
        yield lambda: None
        return
    server = _DetachedServer()
    with ThreadPoolExecutor(1, thread_name_prefix="prefect-server") as starter:
        start_future = starter.submit(server.start)
        while server.server_process is None and not start_future.done():
            time.sleep(0.01)
        if server.server_process is None:
            start_future.result()  # raises the reason
            raise RuntimeError("the embedded Prefect server has not started")
        watchdog = _start_watchdog(server.server_process.pid)
        try:
            yield lambda: start_future.result()
        finally:
            # Send what is still queued while the server runs; afterwards Prefect would retry for a minute.
            for sender in (APILogWorker, EventsWorker):
                sender.drain_all(timeout=10)
            server.stop()
            watchdog.communicate()


def _start_watchdog(pid: int) -> subprocess.Popen[bytes]:
    """Start a shell that kills `pid` when this process ends, however it ends.

    The shell waits on a pipe that only this process holds open.
    """
    return subprocess.Popen(["sh", "-c", 'read -r _; kill -9 "$0" 2>/dev/null', str(pid)], stdin=subprocess.PIPE, start_new_session=True)
