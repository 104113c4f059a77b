"""Leases: OS locks on files. The kernel releases them when the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexmill.storage.errors import BuildInProgress
from indexmill.storage.permissions import get_umask
from indexmill.storage.stopping import allow_immediate_stop


@contextmanager
def lease(path: Path, *, holder: str, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Lock `path` while the block runs.

    Args:
        path: The lock file; it is created when missing.
        holder: What this process is called in the errors of others.
        wait: Wait until the lock is free, instead of raising BuildInProgress.
        shared: Share the lock with other holders that also pass `shared`.

    Raises:
        BuildInProgress: when another process holds the lock; names that holder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666 & ~get_umask())
    try:
        try:
            with allow_immediate_stop(f"the lease {path}"):
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BuildInProgress(
                "a build is running",
                where=str(path),
                got=os.pread(handle, 200, 0).decode(errors="replace") or "an unnamed holder",
                next_step="wait for it to end, or stop it; the lease ends with its process",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, holder.encode(), 0)
        yield
    finally:
        os.close(handle)
