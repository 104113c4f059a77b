"""The exceptions that Indexmill raises on purpose.

IndexmillError           exit code 2   base class: what, where, expected, got, next step
|- InputError                          the config, the source or the data is invalid; never retried
|- SourceUnreachable                   the network or a provider does not answer; retried as a ConnectionError
|- StoreUnreachable                    the object store of the root does not answer; retried as a ConnectionError
|- LeaseLost                           another process took over while this one was silent
|- SourceChanged                       an item changed while it was being read; the next run lists it again
|- DamagedFile                         a file is missing or does not match its record
|- RootUnusable                        the root cannot be written
|- BuildInProgress                     another process holds the lease
|- Stopped (in storage.stopping)       a signal stopped the run; exit code 143, or 130 for Ctrl-C
|- PublishRefused        exit code 3   the gate rejected the build; the live snapshot stays
`- ExportFailed          exit code 4   an export failed; what it wrote before stays, and so does the published snapshot
   `- TargetUnreachable                the target of an export does not answer; retried as a ConnectionError
"""

from __future__ import annotations

from typing import Any


class IndexmillError(Exception):
    """An error that says how to fix it. `str()` puts each part on its own line.

    Args:
        what: What is wrong, in one sentence.
        where: The config key, the file or the item.
        expected: What Indexmill needs there.
        got: What is there instead.
        next_step: What to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", expected: str = "", got: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.expected, self.got, self.next_step = what, where, expected, got, next_step

    def __str__(self) -> str:
        parts = (("where", self.where), ("expected", self.expected), ("got", self.got), ("next", self.next_step))
        return "\n".join([self.what, *(f"  {name + ':':<9} {text}" for name, text in parts if text)])

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default reduction, and errors cross process boundaries.
        return _restore_error, (type(self), self.what, self.where, self.expected, self.got, self.next_step)


class InputError(IndexmillError):
    """The config, the source or the data is invalid."""


class SourceUnreachable(IndexmillError, ConnectionError):
    """A provider cannot be reached. It is also a ConnectionError, so code that retries transient errors retries it."""


class StoreUnreachable(IndexmillError, ConnectionError):
    """The object store that holds the root does not answer. Also a ConnectionError, so that it is retried like one."""


class LeaseLost(IndexmillError):
    """Another process has taken over a lease of this one, which was silent for too long."""


class SourceChanged(IndexmillError):
    """An item changed after it was listed."""


class DamagedFile(IndexmillError):
    """A file is missing, or its size or digest does not match its record."""


class RootUnusable(IndexmillError):
    """The root directory cannot be created, read or written."""


class BuildInProgress(IndexmillError):
    """Another process is building the same index."""


class PublishRefused(IndexmillError):
    """The gate rejected the new build; the live snapshot stays."""

    exit_code = 3


class ExportFailed(IndexmillError):
    """An export failed. The published snapshot is not affected, and what the target held before stays.

    `summary` is that of the build which ran the export, if one did.
    """

    exit_code = 4
    summary: dict[str, Any] | None = None


class TargetUnreachable(ExportFailed, ConnectionError):
    """The target of an export does not answer. Also a ConnectionError, so that it is retried like one."""


def _restore_error(kind: type[IndexmillError], what: str, where: str, expected: str, got: str, next_step: str) -> IndexmillError:
    return kind(what, where=where, expected=expected, got=got, next_step=next_step)
