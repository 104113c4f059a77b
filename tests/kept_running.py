"""What every query and every check of images starts, kept running between them: starting it costs more than most tests do.

A build makes about a hundred queries, each with a DuckDB of its own, and starts two kinds of processes that decode images. Here the
queries of one test share a DuckDB per folder, and all tests of a process share the decoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import duckdb
import pytest

from indexmill.storage.parquet import MEMORY_LIMIT
from indexmill.tasks.validation.decoder_pool import DecoderPool

DECODING = ("validation.image_checks", "reports.thumbnails")


class KeptDatabases:
    """Connects a query to the DuckDB of its folder. A connection sees no tables of others; a few folders are kept."""

    MOST = 8

    def __init__(self) -> None:
        self._databases: dict[Path, duckdb.DuckDBPyConnection] = {}

    @contextmanager
    def connect(self, temp_dir: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        if temp_dir not in self._databases:
            if len(self._databases) == self.MOST:
                self._databases.pop(next(iter(self._databases))).close()
            config = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(temp_dir)}
            self._databases[temp_dir] = duckdb.connect(config=config)
        with self._databases[temp_dir].cursor() as connection:
            yield connection

    def close(self) -> None:
        for database in self._databases.values():
            database.close()
        self._databases.clear()


@pytest.fixture(scope="session")
def kept_databases() -> Iterator[KeptDatabases]:
    databases = KeptDatabases()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.storage.parquet._connect", databases.connect)
        yield databases


@pytest.fixture(autouse=True)
def own_databases(kept_databases: KeptDatabases) -> Iterator[None]:
    """No test sees the databases of another."""
    yield
    kept_databases.close()


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
