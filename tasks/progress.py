"""Report progress without knowing the terminal: the work counts units, and a watcher decides how to show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from indexmill.storage.stopping import STOP_GRACE_SECONDS, raise_if_stopping

Advance = Callable[[int], None]


class Watcher(Protocol):
    """Shows work in progress."""

    def watch(self, description: str, total: int, /) -> AbstractContextManager[Advance]:
        """Show work of `total` units. Yields a function that is called with the number of units just finished."""
        ...


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def use_watcher(watcher: Watcher) -> Iterator[None]:
    """Show all work inside the block in `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def track(description: str, total: int) -> Iterator[Advance]:
    """Announce work of `total` units. Yields the function to call with the number of units just finished.

    That function raises Stopped if a stop was requested and no commit has come within the grace period.
    """
    watcher = _watcher.get()
    with watcher.watch(description, total) if watcher else nullcontext(ignore_progress) as report:

        def advance(finished: int) -> None:
            report(finished)
            raise_if_stopping(f"during: {description}", grace_seconds=STOP_GRACE_SECONDS)

        yield advance


def ignore_progress(finished: int) -> None:
    """Do nothing: the `Advance` of work whose progress is not shown."""
