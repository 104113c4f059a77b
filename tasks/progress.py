"""Progress without a terminal in sight: the work says how far it is, and whoever watches decides how to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from indexmill.storage.stopping import STOP_GRACE_SECONDS, raise_if_stopping

Advance = Callable[[int], None]


class Watcher(Protocol):
    """Shows work in progress. `watch` yields a function that is called with the number of units just finished."""

    def watch(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Show `total` units of `what`."""
        ...


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def use_watcher(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` show all work that the block does."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def track(what: str, total: int) -> Iterator[Advance]:
    """Announce `total` units of work; yields the function to call as they finish.

    That function raises Stopped when the work was asked to end and has not come to a commit for a while.
    """
    watcher = _watcher.get()
    with watcher.watch(what, total) if watcher else nullcontext(ignore_progress) as report:

        def advance(finished: int) -> None:
            report(finished)
            raise_if_stopping(f"in the midst of: {what}", grace_seconds=STOP_GRACE_SECONDS)

        yield advance


def ignore_progress(finished: int) -> None:
    """Progress that nobody watches."""
