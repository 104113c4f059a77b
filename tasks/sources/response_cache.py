"""What servers gave with the copies of files that no listing shows: ETag, modification time, and when they were last asked.

One SQLite file beside the copies. It may be deleted: the copies are then asked for without conditions when that is due.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from indexmill.tasks.sources.web_client import Validators

LOCK_SECONDS = 60  # two pipelines may share a data set


class Response(NamedTuple):
    """What a server gave with a copy, and when (Unix seconds) it was last asked."""

    validators: Validators
    checked: float


class ResponseCache:
    """The responses by the copies' paths. Used by one thread; what is not committed is lost."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=LOCK_SECONDS)
        self._connection.execute("CREATE TABLE IF NOT EXISTS responses (path TEXT PRIMARY KEY, etag TEXT, modified TEXT, checked REAL)")

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def get(self, path: str) -> Response | None:
        """Return what is known about a copy."""
        row = self._connection.execute("SELECT etag, modified, checked FROM responses WHERE path = ?", (path,)).fetchone()
        return Response(Validators(row[0], row[1]), row[2]) if row else None

    def save(self, path: str, validators: Validators) -> None:
        """Note what the server gave just now."""
        self._connection.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?)", (path, *validators, time.time()))

    def forget(self, path: str) -> None:
        """Remove what is known about a copy."""
        self._connection.execute("DELETE FROM responses WHERE path = ?", (path,))

    def commit(self) -> None:
        """Keep what was noted."""
        self._connection.commit()

    @property
    def changes(self) -> int:
        """How often a copy of the data set has changed."""
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def count_change(self) -> None:
        """Count one more."""
        self._connection.execute(f"PRAGMA user_version = {self.changes + 1}")
