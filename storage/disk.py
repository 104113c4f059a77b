"""A disk that is full or read-only, told in our words: libraries report it each in their own way, some of them as text alone."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import IndexmillError, RootUnusable

FULL = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)}
CLOSED = {number: os.strerror(number) for number in (errno.EROFS, errno.EACCES, errno.EPERM)}


@contextmanager
def writing_below(root: Path, during: str = "") -> Iterator[None]:
    """Raise RootUnusable where the block ends because the disk is full or what lies below `root` cannot be written.

    during: what was being done. Errors that Indexmill raises on purpose pass as they are.
    """
    try:
        yield
    except IndexmillError:
        raise
    except Exception as problem:
        if fault := disk_fault(problem, root, during):
            raise fault from problem
        raise


def disk_fault(problem: BaseException, root: Path, during: str = "") -> RootUnusable | None:
    """The error to raise instead of one that a disk was the cause of; None for any other."""
    where = f"{root}, {during}" if during else str(root)
    if said := _said(problem, FULL):
        free, total = (shutil.disk_usage(root)[place] / 1e6 for place in (2, 0))
        return RootUnusable(
            "the disk is full", where=where, expected="room for what is written", got=f"{said}; {free:,.1f} of {total:,.1f} MB are free",
            next_step="free some, then the same command goes on from there: what was finished is kept",
        )  # fmt: skip
    if not os.access(root, os.W_OK) and (said := _said(problem, CLOSED)):
        return RootUnusable(
            "the root cannot be written", where=where, expected="a directory that this user can write", got=said,
            next_step="make it writable; reading it needs no more than it has",
        )  # fmt: skip
    return None


def _said(problem: BaseException | None, faults: dict[int, str]) -> str:
    """Which of the faults is behind an error, by its number or, of libraries that only tell it in words, by those."""
    while problem is not None:
        if isinstance(problem, OSError) and problem.errno in faults:
            return faults[problem.errno]
        if named := [text for text in faults.values() if text in str(problem)]:
            return named[0]
        problem = problem.__cause__
    return ""
