"""Stopping in good order: whoever wants the work to end asks, and it ends where a file has just been finished.

What is asked stands for the whole process, as a signal does. `storage.atomic.commit` heeds it at once; work that goes on for long between
two commits heeds it when `STOP_GRACE_SECONDS` is over, and what it was in the middle of is done again by the next run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from indexmill.storage.errors import IndexmillError

STOP_GRACE_SECONDS = 20.0  # seconds; Prefect's worker kills a cancelled run 30 seconds after it has asked

_stop_request: tuple[signal.Signals, float] | None = None
_immediate_stop_depth = 0


class Stopped(IndexmillError):
    """The work was asked to end before it was done."""

    exit_code = 128 + signal.SIGTERM


def request_stop(number: int) -> None:
    """Let the work end at its next commit, since this signal came. Called again, the first time counts."""
    global _stop_request
    _stop_request = _stop_request or (signal.Signals(number), time.monotonic())


@contextmanager
def allow_immediate_stop(what: str) -> Iterator[None]:
    """Within the block nothing is under way, and it may last: who asks then need not wait for a commit (`can_stop_immediately`)."""
    global _immediate_stop_depth
    raise_if_stopping(f"before {what}")
    _immediate_stop_depth += 1
    try:
        yield
    finally:
        _immediate_stop_depth -= 1


def can_stop_immediately() -> bool:
    """Whether a signal that comes now ends the work where it is: the second one, and one that comes while nothing is under way."""
    return _stop_request is not None or _immediate_stop_depth > 0


def clear_stop_request() -> None:
    """Let the work that comes next go on: nobody has asked it."""
    global _stop_request
    _stop_request = None


def raise_if_stopping(where: str, *, grace_seconds: float = 0.0) -> None:
    """Raise Stopped when the work was asked to end, and that at least `grace_seconds` seconds ago. where: how far it has come."""
    if _stop_request is not None and time.monotonic() - _stop_request[1] >= grace_seconds:
        raise build_stopped_error(_stop_request[0], where)


def build_stopped_error(number: signal.Signals, where: str = "") -> Stopped:
    """What is raised. Its exit code is the one that shells know: 128 and the signal's number."""
    problem = Stopped(
        f"stopped by {number.name}",
        where=where,
        got="what was finished is kept, and whatever is live stays whole",
        next_step="the same command goes on from there",
    )
    problem.exit_code = 128 + number
    return problem
