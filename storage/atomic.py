"""Atomic file writes: write under a temporary name, fsync, rename.

Temporaries are in `<root>/tmp/<pid>-<random>/`, a folder that its process keeps locked. A folder whose lock is free
belongs to a process that has ended; the next build removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from indexmill.storage.permissions import get_umask
from indexmill.storage.stopping import raise_if_stopping


class Committer(Protocol):
    """Makes finished temporary files durable under their final names."""

    def commit(self, temporary: Path, target: Path) -> None:
        """Replace what has the final name."""

    def commit_if_absent(self, temporary: Path, target: Path) -> bool:
        """Keep what has the final name; return whether it was absent."""


class Scratch:
    """This process's folder for temporaries under one root. The kernel releases its lock when the process ends.

    Args:
        parent: The folder that all processes' folders are in.
        committer: What makes temporary files final: the root's store.
    """

    def __init__(self, parent: Path, committer: Committer) -> None:
        self._committer = committer
        parent.mkdir(mode=0o777 & ~get_umask(), parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder, then release its lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder for temporaries without a final name yet; it is removed at the end."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def replace_atomically(self, target: Path) -> Iterator[Path]:
        """Yield a temporary path; commit it as `target` when the block ends without an error."""
        with self.staging() as folder:
            yield folder / target.name
            self._committer.commit(folder / target.name, target)

    @contextmanager
    def create_atomically(self, target: Path) -> Iterator[Path]:
        """Yield a temporary path; commit it as `target` when the block ends without an error, unless that file exists."""
        with self.staging() as folder:
            yield folder / target.name
            self._committer.commit_if_absent(folder / target.name, target)

    def write_text(self, target: Path, text: str) -> None:
        """Write `text` (UTF-8) to `target` atomically."""
        with self.replace_atomically(target) as temporary:
            temporary.write_text(text, encoding="utf-8")


def commit(temporary: Path, target: Path) -> None:
    """Make a finished temporary file durable under its final name on this machine (`Root.commit` does so for a root).

    Raises:
        Stopped: when a stop was requested. The file is in its place by then.
    """
    _fsync(temporary)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(target)
    _fsync(target.parent)
    raise_if_stopping(f"after {target}")


def commit_if_absent(temporary: Path, target: Path) -> bool:
    """Commit a file like `commit`, but keep a target that exists: of several writers the first one wins.

    Returns:
        Whether this file became the target.

    Raises:
        Stopped: when a stop was requested.
    """
    _fsync(temporary)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system; the gap between the two calls is short
        if target.exists():
            return False
        temporary.replace(target)
    _fsync(target.parent)
    raise_if_stopping(f"after {target}")
    return True


def replace_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in the place of another one, and remove that. Readers find the old or the new one.

    Args:
        temporary: The finished folder, on the same file system.
        target: Its final name: nothing, or a folder. On a file system that cannot exchange two names (some network file
            systems), there is nothing under this name for a moment.

    Raises:
        Stopped: when a stop was requested. The folder is in its place by then.
    """
    for path in (*temporary.rglob("*"), temporary):
        _fsync(path)
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        replaced = temporary.with_name(f"{temporary.name}.replaced")
        target.rename(replaced)
        temporary.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    _fsync(target.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    raise_if_stopping(f"after {target}")


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at once; return whether the file system can. Python has no function for it."""
    at_current_folder, rename_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <linux/fs.h>
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # macOS
        return False
    if renameat2(at_current_folder, os.fsencode(first), at_current_folder, os.fsencode(second), rename_exchange) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(error, os.strerror(error), str(second))


def link(source: Path, target: Path, scratch: Scratch) -> None:
    """Give an immutable file a second name, atomically."""
    with scratch.replace_atomically(target) as temporary:
        link_or_copy(source, temporary)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_stale_temporaries(parent: Path) -> int:
    """Remove the temporaries of processes that have ended and return the number of folders removed.

    Files stay: DuckDB's, which it removes itself once their process has ended.
    """
    removed = 0
    for folder in sorted(parent.glob("*-*")) if parent.is_dir() else []:
        if folder.is_dir() and not _is_locked(folder / "lock"):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _is_locked(lock: Path) -> bool:
    try:
        handle = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:  # it belongs to another user, whose builds remove it
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
