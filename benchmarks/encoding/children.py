"""One process per variant, reused for all models, so that variants cannot affect one another."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.encoding.variants import Factory, Measured, Variant, Work

_loaded: Variant | None = None


class Child:
    """A child process whose output goes to a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_redirect_output, initargs=(str(log),))

    def load(self, factory: Factory, work: Work) -> Future[None]:
        """Start loading a variant in place of the previous one."""
        return self._pool.submit(_load, factory, work)

    def warm(self) -> None:
        """Warm up the loaded variant."""
        self._pool.submit(_warm).result()

    def measure(self) -> Measured:
        """Time the loaded variant."""
        return self._pool.submit(_measure).result()

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a module-level function in the process."""
        return self._pool.submit(function, *arguments).result()

    def close(self) -> None:
        """Stop the process."""
        self._pool.shutdown()


def _redirect_output(log: str) -> None:
    sys.stdout.flush()
    with open(log, "ab") as file:  # noqa: PTH123 - needs a file descriptor
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _load(factory: Factory, work: Work) -> None:
    global _loaded
    _loaded = None
    _loaded = factory(work)


def _warm() -> None:
    assert _loaded is not None
    _loaded.warm()


def _measure() -> Measured:
    assert _loaded is not None
    return _loaded.measure()
