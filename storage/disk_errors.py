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
def translate_disk_errors(root: Path, action: str = "") -> Iterator[None]:
    """Translate errors of the block that a disk or a file below `root` causes. Other errors pass unchanged.

    Args:
        root: The root's path.
        action: What the block does, for the message, as in "in the stage shard".

    Raises:
        RootUnusable: when the disk is full or cannot be written.
        DamagedFile: when a file below `root` is missing or damaged.
    """
    try:
        yield
    except IndexmillError:
        raise
    except Exception as error:
        if translated := build_disk_error(error, root, action) or build_damaged_file_error(error, root, action):
            raise translated from error
        raise


def build_damaged_file_error(error: BaseException, root: Path, action: str = "") -> DamagedFile | None:
    """Return the DamagedFile to raise instead of `error`; None when no damaged file caused it."""
    if not _is_caused_by_damage(error, root):
        return None
    return DamagedFile(
        "a file below the root is missing or cannot be read",
        where=f"{root}, {action}" if action else str(root),
        got=str(error).splitlines()[0],
        next_step="run the build again; it recreates missing and damaged files",
    )


def check_free_space(root: Path, min_bytes: int) -> None:
    """Raise RootUnusable when fewer than `min_bytes` bytes are free below `root`."""
    if shutil.disk_usage(root).free < min_bytes:
        raise _build_disk_full_error(root, str(root), f"at least {min_bytes / 1e6:,.0f} MB free", "")


def build_disk_error(error: BaseException, root: Path, action: str = "") -> RootUnusable | None:
    """Return the RootUnusable to raise instead of `error`; None when the disk did not cause it."""
    where = f"{root}, {action}" if action else str(root)
    if message := _match_os_error(error, DISK_FULL_ERRORS):
        return _build_disk_full_error(root, where, "enough free space", f"{message}; ")
    if not os.access(root, os.W_OK) and (message := _match_os_error(error, READ_ONLY_ERRORS)):
        return RootUnusable(
            "the root cannot be written",
            where=where,
            expected="a directory that this user can write",
            got=message,
            next_step="make it writable; commands that only read work as it is",
        )
    return None


def get_user_temp_folder() -> Path:
    """Return this user's folder in the system's temporary directory, creating it when needed.

    Raises:
        RootUnusable: when the folder belongs to another user or is writable by others.
    """
    folder = Path(tempfile.gettempdir()) / f"indexmill-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o22 or not stat.S_ISDIR(status.st_mode):
        raise RootUnusable(
            "the folder for temporary files is not safe to use",
            where=str(folder),
            expected="a directory that only this user can write",
            got=f"mode {status.st_mode & 0o777:o}, owner {status.st_uid}",
            next_step="remove it, or set TMPDIR",
        )
    return folder


def _is_caused_by_damage(error: BaseException, root: Path) -> bool:
    import duckdb  # slow to import, and most commands read no table
    import pyarrow as pa

    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOENT and str(error.filename).startswith(str(root))
    if isinstance(error, duckdb.IOException | duckdb.InvalidInputException | pa.ArrowException):
        return True
    if type(error) is RuntimeError:  # FAISS
        return f"read error in {root}" in str(error)
    return type(error) in (OSError, duckdb.Error)


def _build_disk_full_error(root: Path, where: str, expected: str, prefix: str) -> RootUnusable:
    usage = shutil.disk_usage(root)
    return RootUnusable(
        "the disk is full",
        where=where,
        expected=expected,
        got=f"{prefix}{usage.free / 1e6:,.1f} of {usage.total / 1e6:,.1f} MB free",
        next_step="free some space and run the same command again; finished work is kept",
    )


def _match_os_error(error: BaseException | None, messages: dict[int, str]) -> str:
    """Return the message that matches `error` or one of its causes, by errno or by text; empty when none does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in messages:
            return messages[error.errno]
        if matches := [message for message in messages.values() if message in str(error)]:
            return matches[0]
        error = error.__cause__
    return ""
