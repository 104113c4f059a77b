"""Stopping in good order: whoever wants the work to end asks, and it ends where a file has just been finished.

What is asked stands for the whole process, as a signal does. `storage.atomic.commit` heeds it at once; work that goes on for long between
two commits heeds it when `PATIENCE` is over, and what it was in the middle of is done again by the next run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from indexmill.storage.errors import IndexmillError

PATIENCE = 20.0  # seconds; Prefect's worker kills a cancelled run 30 seconds after it has asked

_asked: tuple[signal.Signals, float] | None = None
_waiting = 0


class Stopped(IndexmillError):
    """The work was asked to end before it was done."""

    exit_code = 128 + signal.SIGTERM


def ask(number: int) -> None:
    """Let the work end at its next commit, since this signal came. Called again, the first time counts."""
    global _asked
    _asked = _asked or (signal.Signals(number), time.monotonic())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Within the block nothing is under way, and it may last: who asks then need not wait for a commit (`at_once`)."""
    global _waiting
    heed(f"before {what}")
    _waiting += 1
    try:
        yield
    finally:
        _waiting -= 1


def at_once() -> bool:
    """Whether a signal that comes now ends the work where it is: the second one, and one that comes while nothing is under way."""
    return _asked is not None or _waiting > 0


def forget() -> None:
    """Let the work that comes next go on: nobody has asked it."""
    global _asked
    _asked = None


def heed(where: str, *, patience: float = 0.0) -> None:
    """Raise Stopped when the work was asked to end, and that at least `patience` seconds ago. where: how far it has come."""
    if _asked is not None and time.monotonic() - _asked[1] >= patience:
        raise stopped(_asked[0], where)


def stopped(number: signal.Signals, where: str = "") -> Stopped:
    """What is raised. Its exit code is the one that shells know: 128 and the signal's number."""
    problem = Stopped(
        f"stopped by {number.name}",
        where=where,
        got="what was finished is kept, and whatever is live stays whole",
        next_step="the same command goes on from there",
    )
    problem.exit_code = 128 + number
    return problem
