"""A process for each variant, kept from model to model, so that what one variant sets or leaves behind touches no other."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from encoding.variants import Factory, Measured, Variant, Work

_loaded: Variant | None = None


class Child:
    """One process; what it prints goes into a file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_hush, initargs=(str(log),))

    def load(self, factory: Factory, work: Work) -> Future[None]:
        """Begin to load a variant; the one before is let go."""
        return self._pool.submit(_load, factory, work)

    def warm(self) -> None:
        """Warm up what is loaded."""
        self._pool.submit(_warm).result()

    def measure(self) -> Measured:
        """Time what is loaded."""
        return self._pool.submit(_measure).result()

    def call(self, function: Any, *arguments: Any) -> Any:
        """What a function of a module gives there."""
        return self._pool.submit(function, *arguments).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _hush(log: str) -> None:
    sys.stdout.flush()
    with open(log, "ab") as file:  # noqa: PTH123 - a descriptor is wanted
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
