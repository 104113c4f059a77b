"""Loaded by every Dask worker of the tests: the worker kills itself at a chosen commit of a file.

The file named by KILL_FILE holds two lines: a text, and a number. Before a worker commits a file whose path contains the
text, it lowers the number and kills itself with SIGKILL; at 0 nothing happens.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from indexmill.storage import atomic

KILL_FILE = "INDEXMILL_TEST_KILL_FILE"


def order_kills(path: Path, text: str, times: int) -> None:
    """Let the next `times` commits of a file whose path contains `text` kill their workers."""
    path.write_text(f"{text}\n{times}")


def count_open_kills(path: Path) -> int:
    """Return how many of them have not happened."""
    return int(path.read_text().splitlines()[1])


def take_kill(target: str) -> bool:
    """Return whether this process shall die, and count it."""
    with Path(os.environ[KILL_FILE]).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text, times = file.read().splitlines()
        if text not in target or not int(times):
            return False
        file.seek(0)
        file.truncate()
        file.write(f"{text}\n{int(times) - 1}")
        return True


def commit_or_die(temporary: Path, target: Path, commit: Callable[[Path, Path], Any]) -> Any:
    if take_kill(str(target)):
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(temporary, target)


def dask_setup(worker: object) -> None:
    """Called by Dask when the worker starts."""
    atomic.commit = partial(commit_or_die, commit=atomic.commit)
    atomic.commit_if_absent = partial(commit_or_die, commit=atomic.commit_if_absent)
