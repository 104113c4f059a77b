"""The process of an embedded Prefect server. Nothing here imports Prefect, so that the server starts before this process has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_TIMEOUT_S = 5.0
# Files of the current folder that Prefect reads, and what is in one with settings. It reads a file of profiles, too.
SETTINGS_FILES = {".env": b"prefect_", "prefect.toml": b"", "pyproject.toml": b"tool.prefect"}


@dataclass(frozen=True)
class ServerProcess:
    """A server that is starting or answers: the URL of its API, and its process."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def start_server(settings: dict[str, str] | None = None) -> Iterator[ServerProcess]:
    """Start a server, and stop it at the end of the block. It does not answer yet, but requests wait until it does.

    Args:
        settings: Environment variables of Prefect that this process's environment lacks.
    """
    # The server inherits a socket that listens already: no port can be taken meanwhile, and early requests wait in line.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        process = _start_process(listener.fileno(), settings or {})
    watchdog = _start_watchdog(process.pid)
    try:
        yield ServerProcess(url, process)
    finally:
        _stop(process)
        watchdog.communicate()


def is_environment_complete() -> bool:
    """Return whether Prefect's settings can only be in the environment, and name no server.

    If so, a server can be started before Prefect is imported, which reads them. Imported already, it may have others.
    """
    if "prefect" in sys.modules or os.environ.get("PREFECT_API_URL"):
        return False
    profiles = os.environ.get("PREFECT_PROFILES_PATH") or str(Path(os.environ.get("PREFECT_HOME", "~/.prefect")) / "profiles.toml")
    return not any(_has_settings(Path(name).expanduser(), mark) for name, mark in (SETTINGS_FILES | {profiles: b""}).items())


def _has_settings(file: Path, mark: bytes) -> bool:
    try:
        return mark in file.read_bytes().lower()
    except FileNotFoundError:
        return False
    except OSError:  # Prefect will say what is wrong with it
        return True


def _start_process(descriptor: int, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the server in its own process group.

    Ctrl-C, or a signal to the whole group, must not stop the server before the build has reported its final state.
    """
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "error"]
    server_settings = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(
        [*command, "--fd", str(descriptor)], env=os.environ | server_settings | settings, process_group=0, pass_fds=(descriptor,)
    )


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
