"""Orderly stops: a stop request ends the process right after the next file is committed.

The request applies to the whole process, as a signal does. `storage.atomic.commit` checks it after every file. Long
work between two commits checks it after `STOP_GRACE_SECONDS`; the next run repeats that work.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from indexmill.storage.errors import IndexmillError

STOP_GRACE_SECONDS = 20.0  # Prefect's worker kills a cancelled run after 30 seconds

_stop_request: tuple[signal.Signals, float] | None = None
_immediate_stop_depth = 0


class Stopped(IndexmillError):
    """A stop request ended the run early."""

    exit_code = 128 + signal.SIGTERM


def request_stop(number: int) -> None:
    """Request a stop because of a signal. Only the first request counts."""
    global _stop_request
    _stop_request = _stop_request or (signal.Signals(number), time.monotonic())


@contextmanager
def allow_immediate_stop(action: str) -> Iterator[None]:
    """Mark a block that only waits, so that a signal may end it at once (`can_stop_immediately`).

    Raises:
        Stopped: when a stop was requested before the block.
    """
    global _immediate_stop_depth
    raise_if_stopping(f"before {action}")
    _immediate_stop_depth += 1
    try:
        yield
    finally:
        _immediate_stop_depth -= 1


def can_stop_immediately() -> bool:
    """Whether a signal may end the process at once: it is the second one, or the process only waits."""
    return _stop_request is not None or _immediate_stop_depth > 0


def clear_stop_request() -> None:
    """Forget the stop request, so that the next run can start."""
    global _stop_request
    _stop_request = None


def raise_if_stopping(where: str, *, grace_seconds: float = 0.0) -> None:
    """Raise Stopped when a stop was requested at least `grace_seconds` seconds ago.

    where: what the run was doing, for the message.
    """
    if _stop_request is not None and time.monotonic() - _stop_request[1] >= grace_seconds:
        raise build_stopped_error(_stop_request[0], where)


def build_stopped_error(number: signal.Signals, where: str = "") -> Stopped:
    """Build the error for a signal. Its exit code is 128 plus the signal's number, as in shells."""
    error = Stopped(
        f"stopped by {number.name}",
        where=where,
        got="finished work is kept, and the live snapshot is unchanged",
        next_step="run the same command again to continue",
    )
    error.exit_code = 128 + number
    return error
