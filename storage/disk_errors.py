"""Translate disk failures (full, read-only, missing or damaged files) into Indexmill's errors.

Libraries report them in different ways, some only in the text of the message."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexmill.storage.errors import DamagedFile, IndexmillError, RootUnusable

DISK_FULL_ERRORS = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)}
READ_ONLY_ERRORS = {number: os.strerror(number) for number in (errno.EROFS, errno.EACCES, errno.EPERM)}


@contextmanager
def translate_disk_errors(root: Path, during: str = "") -> Iterator[None]:
    """Raise RootUnusable where a full or closed disk ends the block, and DamagedFile where a file below `root` does, gone or damaged.

    during: what was being done. Errors that Indexmill raises on purpose pass as they are.
    """
    try:
        yield
    except IndexmillError:
        raise
    except Exception as problem:
        if fault := build_disk_error(problem, root, during) or build_damaged_file_error(problem, root, during):
            raise fault from problem
        raise


def build_damaged_file_error(problem: BaseException, root: Path, during: str = "") -> DamagedFile | None:
    """The error to raise instead of one that a damaged file was the cause of; None for any other."""
    import duckdb  # slow to import, and most commands read no table
    import pyarrow as pa

    if isinstance(problem, OSError) and problem.errno is not None:
        found = problem.errno == errno.ENOENT and str(problem.filename).startswith(str(root))
    else:
        found = isinstance(problem, duckdb.IOException | duckdb.InvalidInputException | pa.ArrowException) or type(problem) in (
            OSError,
            duckdb.Error,
        )
        found = found or (type(problem) is RuntimeError and f"read error in {root}" in str(problem))  # FAISS's
    if not found:
        return None
    return DamagedFile(
        "a file below the root is gone or cannot be read", where=f"{root}, {during}" if during else str(root),
        got=str(problem).splitlines()[0], next_step="run the build again: it makes anew what is damaged or gone",
    )  # fmt: skip


def check_free_space(root: Path, least: int) -> None:
    """Raise RootUnusable when fewer than `least` bytes are free below `root`."""
    if shutil.disk_usage(root).free < least:
        raise _build_disk_full_error(root, str(root), f"{least / 1e6:,.0f} MB to begin with", "")


def build_disk_error(problem: BaseException, root: Path, during: str = "") -> RootUnusable | None:
    """The error to raise instead of one that a disk was the cause of; None for any other."""
    where = f"{root}, {during}" if during else str(root)
    if said := _match_os_error(problem, DISK_FULL_ERRORS):
        return _build_disk_full_error(root, where, "room for what is written", f"{said}; ")
    if not os.access(root, os.W_OK) and (said := _match_os_error(problem, READ_ONLY_ERRORS)):
        return RootUnusable(
            "the root cannot be written", where=where, expected="a directory that this user can write", got=said,
            next_step="make it writable; reading it needs no more than it has",
        )  # fmt: skip
    return None


def get_user_temp_folder() -> Path:
    """This user's folder among the system's temporaries; RootUnusable where somebody else has taken its name."""
    folder = Path(tempfile.gettempdir()) / f"indexmill-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o22 or not stat.S_ISDIR(found.st_mode):
        raise RootUnusable(
            "the folder for temporaries is not this user's own", where=str(folder), expected="a directory that only this user can write",
            got=f"mode {found.st_mode & 0o777:o}, owner {found.st_uid}", next_step="remove it, or set TMPDIR",
        )  # fmt: skip
    return folder


def _build_disk_full_error(root: Path, where: str, expected: str, said: str) -> RootUnusable:
    usage = shutil.disk_usage(root)
    return RootUnusable(
        "the disk is full", where=where, expected=expected, got=f"{said}{usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB are free",
        next_step="free some, then the same command goes on from there: what was finished is kept",
    )  # fmt: skip


def _match_os_error(problem: BaseException | None, faults: dict[int, str]) -> str:
    """Which of the faults is behind an error, by its number or, of libraries that only tell it in words, by those."""
    while problem is not None:
        if isinstance(problem, OSError) and problem.errno in faults:
            return faults[problem.errno]
        if named := [text for text in faults.values() if text in str(problem)]:
            return named[0]
        problem = problem.__cause__
    return ""
