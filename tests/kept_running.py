"""What queries and checks of images start, kept running between them: starting it costs more than most tests do.

The queries of one test share a DuckDB per folder, and all tests of a process share the processes that decode images.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, ClassVar

import pytest

from indexmill.storage.query_database import sharing_databases
from indexmill.tasks.validation.decoder_pool import DecoderPool

DECODING = ("validation.image_checks", "reports.thumbnails")


@pytest.fixture(autouse=True)
def shared_databases() -> Iterator[None]:
    """A test's queries share databases, as those of a build do. No test sees the databases of another."""
    with sharing_databases():
        yield


class KeptDecoderPool(DecoderPool):
    """A pool that takes processes which an earlier pool with the same limits has left, and leaves its own."""

    _idle: ClassVar[dict[tuple[Any, ...], list[DecoderPool]]] = {}

    def __init__(self, limits: Any, **options: Any) -> None:
        super().__init__(limits, **options)
        self._key = (limits, *(options[name] for name in sorted(options)))

    def __enter__(self) -> DecoderPool:
        if idle := self._idle.setdefault(self._key, []):
            self._processes = idle.pop()._processes
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._idle[self._key].append(self)

    @classmethod
    def stop_all(cls) -> None:
        for pools in cls._idle.values():
            for pool in pools:
                DecoderPool.__exit__(pool, None, None, None)
        cls._idle.clear()


@pytest.fixture(scope="session", autouse=True)
def kept_decoders() -> Iterator[None]:
    """Checks of images and thumbnails in this process use pools that stay."""
    with pytest.MonkeyPatch.context() as patch:
        for user in DECODING:
            patch.setattr(f"indexmill.tasks.{user}.DecoderPool", KeptDecoderPool)
        yield
    KeptDecoderPool.stop_all()
