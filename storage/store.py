"""Where the files of a root are kept: the operations that a root needs, and the plain folder.

A root is either a folder, where files are used where they lie, or a prefix in an object store (`object_store`), where a
folder on this machine holds copies of the objects in use. Code above `Root` sees local paths in both cases. It calls
`fetch` before it reads a file and `commit` to create one, and it never lists a folder itself.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from indexmill.storage import atomic
from indexmill.storage.errors import BuildInProgress
from indexmill.storage.locks import lease


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes, and when the file was last modified (Unix seconds, by the clock of the store)."""

    size: int
    modified: float


# What every machine has for itself: locks, temporaries, the catalog, Prefect's files, downloaded sources and models.
LOCAL_NAMES = frozenset({"tmp", "prefect", "sources", "models", "lease", "leases", "probe", "catalog.duckdb", "catalog.duckdb.wal"})
SNAPSHOT_FILES = frozenset({"manifest.json", "retired.json"})


def is_shared(key: str) -> bool:
    """Whether a file belongs to the root, wherever it is kept. A snapshot's links to its pool files do not.

    Args:
        key: The file's path relative to the root, with slashes.
    """
    parts = key.split("/")
    if parts[0] in LOCAL_NAMES or parts[-1] == "lease" or key.endswith(".part"):
        return False
    if len(parts) > 4 and parts[0] == "indexes" and parts[2] == "snapshots":
        return parts[4] == "readers" or (len(parts) == 5 and parts[4] in SNAPSHOT_FILES)
    return True


class Store(Protocol):
    """The files of one root. All paths are local ones below the root's folder."""

    location: str

    def commit(self, temporary: Path, target: Path) -> None:
        """Make a finished temporary file durable under its final name, atomically."""

    def commit_if_absent(self, temporary: Path, target: Path) -> bool:
        """Commit a file like `commit`, but keep a target that exists; return whether this file became the target."""

    def fetch(self, path: Path) -> Path:
        """Make a file's content available at `path`, if the root has this file, and return `path`."""

    def read(self, path: Path) -> bytes | None:
        """Read the newest content of a small file that others may replace; None when it does not exist."""

    def write(self, path: Path, content: bytes) -> None:
        """Write a small file for `read`. One that is half written must do no harm."""

    def swap(self, temporary: Path, target: Path, expected: bytes | None) -> None:
        """Replace a small file by a temporary one if it still holds `expected` (None: if it does not exist).

        Raises BuildInProgress when another process has replaced it.
        """

    def list_files(self, folder: Path, pattern: str) -> list[Path]:
        """List the files below `folder` whose relative path matches a glob pattern, sorted; `**` means all of them.

        They need not be here yet.
        """

    def list_folders(self, folder: Path) -> list[str]:
        """List the names of the folders directly below `folder`, sorted."""

    def refresh(self, folder: Path) -> None:
        """See what others have changed below `folder` since this process last looked."""

    def for_job(self) -> Store:
        """Return this store for one job of a worker that keeps the store open between jobs (`Root.for_job`)."""

    def info(self, path: Path) -> FileInfo | None:
        """Describe a file; None when the root does not have it."""

    def now(self) -> float:
        """The store's time, in Unix seconds, to compare with `FileInfo.modified`."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that does not exist is no error."""

    def remove_stale_copies(self) -> None:
        """Remove this machine's copies of files that the root has no more. The caller holds the root alone."""

    def fetch_link(self, source: Path, target: Path) -> None:
        """Make `target` a link to `source` on this machine, if the root keeps this file under the name `source` only."""

    def drop_copy(self, path: Path) -> bool:
        """Remove this machine's copy of a file, so that the next `fetch` brings the store's; return whether it was one."""

    def lease(self, path: Path, *, holder: str, wait: bool = False, shared: bool = False) -> AbstractContextManager[None]:
        """Hold the lease `path` while the block runs.

        Args:
            path: The lease.
            holder: What this process is called in the errors of others.
            wait: Wait until the lease is free, instead of raising BuildInProgress.
            shared: Share the lease with other holders that also pass `shared`.
        """

    def hold_reader(self, manifest: Path) -> AbstractContextManager[None]:
        """Keep a snapshot from being removed during the block. Raises FileNotFoundError when it is gone."""

    def retire(self, manifest: Path) -> bool:
        """Remove a snapshot's manifest unless a reader holds the snapshot; return whether it was removed."""


class FolderStore:
    """A folder on a file system: files are where they are used, and the kernel's locks keep processes apart."""

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)

    def commit(self, temporary: Path, target: Path) -> None:
        """Rename the file into place (`storage.atomic.commit`)."""
        atomic.commit(temporary, target)

    def commit_if_absent(self, temporary: Path, target: Path) -> bool:
        """Link the file into place (`storage.atomic.commit_if_absent`)."""
        return atomic.commit_if_absent(temporary, target)

    def fetch(self, path: Path) -> Path:
        """Return `path`: the file is there already."""
        return path

    def read(self, path: Path) -> bytes | None:
        """Read a file; None when it does not exist."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, content: bytes) -> None:
        """Write a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def swap(self, temporary: Path, target: Path, expected: bytes | None) -> None:
        """Replace a file by one rename. The caller holds the lease of what it belongs to, so nobody comes in between."""
        if (found := self.read(target)) != expected:
            raise build_swap_error(target, found)
        atomic.commit(temporary, target)

    def list_files(self, folder: Path, pattern: str) -> list[Path]:
        """List matching files."""
        paths = folder.rglob("*") if pattern == "**" else folder.glob(pattern)
        return sorted(path for path in paths if path.is_file())

    def list_folders(self, folder: Path) -> list[str]:
        """List subfolders, empty ones too."""
        return sorted(path.name for path in folder.glob("*") if path.is_dir())

    def refresh(self, folder: Path) -> None:
        """Do nothing: the folder is always up to date."""

    def for_job(self) -> Store:
        """Return this store: the folder is always up to date."""
        return self

    def info(self, path: Path) -> FileInfo | None:
        """Return a file's size and modification time."""
        try:
            status = path.stat()
        except OSError:
            return None
        return FileInfo(status.st_size, status.st_mtime)

    def now(self) -> float:
        """Return this machine's time."""
        return time.time()

    def remove(self, path: Path) -> None:
        """Unlink a file."""
        path.unlink(missing_ok=True)

    def remove_stale_copies(self) -> None:
        """Do nothing: no file is a copy."""

    def fetch_link(self, source: Path, target: Path) -> None:
        """Do nothing: the link is part of the root."""

    def drop_copy(self, path: Path) -> bool:  # noqa: ARG002 (the protocol's signature)
        """Return False: the file is no copy."""
        return False

    def lease(self, path: Path, *, holder: str, wait: bool = False, shared: bool = False) -> AbstractContextManager[None]:
        """Lock the file `path` (`storage.locks.lease`)."""
        return lease(path, holder=holder, wait=wait, shared=shared)

    @contextmanager
    def hold_reader(self, manifest: Path) -> Iterator[None]:
        """Share a lock on the manifest, which `retire` wants for itself."""
        handle = os.open(manifest, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)

    def retire(self, manifest: Path) -> bool:
        """Unlink the manifest unless somebody has it locked."""
        handle = os.open(manifest, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            manifest.unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True


def build_swap_error(path: Path, found: bytes | None) -> BuildInProgress:
    """Build the error for a file that another process has replaced since this one read it."""
    return BuildInProgress(
        "another build has published in the meantime",
        where=str(path),
        expected="the snapshot that this build was compared with",
        got="nothing" if found is None else found.decode(errors="replace").strip(),
        next_step="build again; finished work is kept",
    )
