"""Every error that Indexmill raises on purpose, and the form in which a person reads it.

IndexmillError            exit code 2   base: what, where, expected, got, next step
|- InputError                           the config, the source or the data is wrong; never retried
|- SourceUnreachable                    the network or a provider's server does not answer; also a ConnectionError, so it is tried again
|- SourceChanged                        an item changed while it was being read; the next run lists it anew
|- DamagedFile                          a file is not what its record says
|- RootUnusable                         the root cannot be written
|- BuildInProgress                      another process holds the lease
|- Stopped (indexmill.storage.stopping)           a signal asked the work to end; exit code 143, or 130 for Ctrl-C
`- Refused              exit code 3   the gate kept the live snapshot
"""

from __future__ import annotations


class IndexmillError(Exception):
    """An error with its remedy. `str()` gives all of it, a line a part.

    what: one sentence; where: the config key, file or item; expected and got: the two that differ; next_step: what to do.
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
    """The config, the source or the data is not usable as it is."""


class SourceUnreachable(IndexmillError, ConnectionError):
    """A provider cannot be reached now. It is a ConnectionError too: what tries passing faults again tries this."""


class SourceChanged(IndexmillError):
    """An item's bytes are no longer those that were listed."""


class DamagedFile(IndexmillError):
    """A file is missing or has another size or digest than its record says."""


class RootUnusable(IndexmillError):
    """The root directory cannot be created, read or written."""


class BuildInProgress(IndexmillError):
    """Another process is building the same index."""


class PublishRefused(IndexmillError):
    """The gate found the new index worse than it may be; the live snapshot stays."""

    exit_code = 3


def _restore_error(kind: type[IndexmillError], what: str, where: str, expected: str, got: str, next_step: str) -> IndexmillError:
    return kind(what, where=where, expected=expected, got=got, next_step=next_step)
