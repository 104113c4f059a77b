"""What the formats have in common: the protocol, the loading of clients, and the translation of their errors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from indexmill.configs.exports import ExportConfig
from indexmill.storage.errors import ExportFailed, IndexmillError, InputError, SourceUnreachable, TargetUnreachable
from indexmill.storage.urls import redact
from indexmill.tasks.exports.rows import SnapshotRows
from indexmill.tasks.progress import Advance
from indexmill.tasks.retry import is_transient


class ExportCounts(NamedTuple):
    """How many rows an export wrote and removed. In a full export, `written` is all of them."""

    written: int
    removed: int = 0


class ExportTarget(Protocol):
    """A place that holds an export of one index in one format."""

    def find_snapshot_id(self) -> str | None:
        """Return the snapshot that the target holds; None if it holds none."""

    def write(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        """Make the target hold this snapshot. Until the end, readers find what was there before.

        Args:
            rows: The rows of the snapshot.
            advance: Takes the number of rows just written.
        """


def import_client(module: str, extra: str) -> Any:
    """Import the client of a format. Raises InputError, with the command that installs it, when it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"the format {extra} needs a package that is not installed",
            expected=f"the module {error.name}",
            next_step=f"pip install 'indexmill[{extra}]'",
        ) from None


@contextmanager
def translate_errors(config: ExportConfig, *errors: type[Exception], transient: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors of a client in the block into Indexmill's own.

    Args:
        config: The export.
        errors: The client's errors.
        transient: Those of them that may go away on another attempt.

    Raises:
        TargetUnreachable: after a transient error.
        ExportFailed: after another error of the client.
    """
    where = f"{config.format}: {redact(config.to)}"
    client_errors: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except SourceUnreachable as error:
        raise _build_unreachable_error(where, error.got) from None
    except IndexmillError:
        raise
    except client_errors as error:
        lines = str(error).strip().splitlines() or [""]
        got = redact(f"{type(error).__name__}: {lines[0]}")
        if is_transient(error, transient):
            raise _build_unreachable_error(where, got) from error
        raise ExportFailed(
            "the export failed", where=where, got=got, next_step="correct the cause (what was exported before is still there)"
        ) from error


def _build_unreachable_error(where: str, got: str) -> TargetUnreachable:
    next_step = "check the network and the server (what was exported before is still there)"
    return TargetUnreachable("the target of the export cannot be reached", where=where, got=got, next_step=next_step)
