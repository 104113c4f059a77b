"""The DuckDB that runs a query. The queries of a build share one: opening it takes 12 to 30 ms of CPU time, most queries less."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "1GB"


@dataclass
class _SharedDatabases:
    """The databases of a process, one per folder for temporaries, while there are blocks that share them."""

    process: int
    blocks: int = 0
    open: dict[Path, duckdb.DuckDBPyConnection] = field(default_factory=dict)
    retired: list[duckdb.DuckDBPyConnection] = field(default_factory=list)


_lock = threading.Lock()
_shared: _SharedDatabases | None = None


@contextmanager
def sharing_databases() -> Iterator[None]:
    """Let the queries of this process share a database per folder for temporaries until the block ends.

    Blocks may be nested, and several threads may be in one: the databases are closed, and their temporary files removed,
    at the end of the last. A process that is forked in the block opens its own.
    """
    global _shared
    with _lock:
        shared = _get_shared() or _SharedDatabases(os.getpid())
        _shared, shared.blocks = shared, shared.blocks + 1
    try:
        yield
    finally:
        if shared.process == os.getpid():
            with _lock:
                shared.blocks -= 1
                if not shared.blocks:
                    _shared = None
                    for database in (*shared.open.values(), *shared.retired):
                        database.close()


@contextmanager
def connect(temp_dir: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection for one query. It sees nothing of other queries, and is closed at the end of the block.

    Args:
        temp_dir: Where DuckDB spills data that exceeds MEMORY_LIMIT.
    """
    import duckdb

    connection = _open_cursor(temp_dir) if _get_shared() else _open_database(temp_dir)
    try:
        yield connection
    except duckdb.Error:
        _retire_database(temp_dir)
        raise
    finally:
        connection.close()


def _get_shared() -> _SharedDatabases | None:
    """Return the databases to share. Those of a process that forked this one have no threads here, so they are not used."""
    return _shared if _shared and _shared.process == os.getpid() else None


def _open_cursor(temp_dir: Path) -> duckdb.DuckDBPyConnection:
    with _lock:
        if (shared := _get_shared()) is None:  # the last block has just ended, in another thread
            return _open_database(temp_dir)
        if temp_dir not in shared.open:
            shared.open[temp_dir] = _open_database(temp_dir)
        return shared.open[temp_dir].cursor()


def _retire_database(temp_dir: Path) -> None:
    """Let later queries open another database: after some errors one refuses everything. Queries that are running keep it."""
    if _get_shared():
        with _lock:
            if (shared := _get_shared()) and (database := shared.open.pop(temp_dir, None)):
                shared.retired.append(database)


def _open_database(temp_dir: Path) -> duckdb.DuckDBPyConnection:
    import duckdb  # slow to import, and most commands read no table

    return duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(temp_dir)})
