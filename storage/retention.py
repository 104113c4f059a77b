"""Which snapshots of an index stay, and which pooled files they need.

Never removed: the live snapshot, a pinned one, one that a reader holds open. Of the others the newest published ones stay, those that are
young enough, and the newest refused one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.snapshots import Snapshots

POOL_FOLDERS = ("trained", "shards", "evaluations")


@contextmanager
def hold_snapshot(snapshots: Snapshots, snapshot_id: str | None = None) -> Iterator[Manifest]:
    """Hold a snapshot open, the live one by default: it is not removed before the block ends. Yields its manifest.

    Raises InputError when it is not there. A live one that is replaced and removed while it is being opened is no error: its successor is
    opened.
    """
    handle, manifest = _open_and_lock(snapshots, snapshot_id)
    try:
        yield manifest
    finally:
        os.close(handle)


def _open_and_lock(snapshots: Snapshots, snapshot_id: str | None) -> tuple[int, Manifest]:
    while True:
        read_pointer = snapshots.read_pointer()
        try:
            return _lock_manifest(snapshots, snapshot_id or read_pointer or "")
        except FileNotFoundError:
            if snapshot_id or read_pointer == snapshots.read_pointer():
                snapshots.read_manifest(snapshot_id)  # says what is there
                raise


def _lock_manifest(snapshots: Snapshots, snapshot_id: str) -> tuple[int, Manifest]:
    handle = os.open(snapshots.get_path(snapshot_id) / "manifest.json", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle, snapshots.read_manifest(snapshot_id)
    except InputError:
        os.close(handle)
        if not (snapshots.get_path(snapshot_id) / "manifest.json").exists():  # removed before the lock
            raise FileNotFoundError(snapshot_id) from None
        raise
    except BaseException:
        os.close(handle)
        raise


def list_pinned(snapshots: Snapshots) -> set[str]:
    """The snapshots that somebody wants kept."""
    return {path.name for path in _pins_folder(snapshots).glob("*") if path.name in snapshots.list_ids()}


def pin(snapshots: Snapshots, snapshot_id: str, *, keep: bool = True) -> None:
    """Keep a snapshot until it is unpinned (`keep=False`). Raises InputError when there is none of that id."""
    mark = _pins_folder(snapshots) / snapshots.read_manifest(snapshot_id).snapshot_id
    if keep:
        snapshots.root.scratch.write_text(mark, "")
    else:
        mark.unlink(missing_ok=True)


def find_expired_snapshots(snapshots: Snapshots, keep: int, days: float = 0) -> list[str]:
    """The snapshots that may go, oldest first: all but the newest `keep` published ones, those of the last `days`, and the safe ones."""
    ids, refused = snapshots.list_ids(), [snapshot_id for snapshot_id in snapshots.list_ids() if _is_refused(snapshots, snapshot_id)]
    published = [snapshot_id for snapshot_id in ids if snapshot_id not in refused]
    old = {*published[:-keep], *refused[:-1]}
    protected_ids = {snapshots.get_live_id(), *list_pinned(snapshots)}
    keep_after = datetime.now(UTC) - timedelta(days=days)
    return [one for one in ids if one in old and one not in protected_ids and not (days and _read_created_at(snapshots, one) > keep_after)]


def apply_retention(snapshots: Snapshots, keep: int, days: float = 0) -> list[str]:
    """Remove the doomed snapshots that nobody reads, then what no snapshot needs any more. Returns the snapshots removed."""
    removed = [
        snapshot_id
        for snapshot_id in find_expired_snapshots(snapshots, keep, days)
        if _unlink_unless_read(snapshots.get_path(snapshot_id) / "manifest.json")
    ]
    for folder in snapshots.folder.iterdir():
        # The manifest went first: a folder without one is no snapshot, so nobody opens half of it.
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder)
    for path in find_unreferenced_files(snapshots):
        path.unlink()
    for pool_files in POOL_FOLDERS:
        for folder in sorted((snapshots.root.index(snapshots.name) / pool_files).glob("**/"), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
    return removed


def find_unreferenced_files(snapshots: Snapshots, without: frozenset[str] = frozenset()) -> list[Path]:
    """Pooled files that no snapshot needs, those named in `without` left out of account."""
    root = snapshots.root
    needed = {path for snapshot_id in snapshots.list_ids() if snapshot_id not in without for path in _read_pool_files(snapshots, snapshot_id)}
    files = (path for pool_files in POOL_FOLDERS for path in sorted((root.index(snapshots.name) / pool_files).rglob("*")) if path.is_file())
    return [path for path in files if path.relative_to(root.path).as_posix() not in needed]


def _unlink_unless_read(manifest: Path) -> bool:
    """Remove a manifest unless a reader holds it."""
    handle = os.open(manifest, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        manifest.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _pins_folder(snapshots: Snapshots) -> Path:
    return snapshots.root.index(snapshots.name) / "pins"


def _is_refused(snapshots: Snapshots, snapshot_id: str) -> bool:
    """Whether the gate refused it; one whose manifest cannot be read counts as published."""
    try:
        return snapshots.read_manifest(snapshot_id).verdict == "refused"
    except (DamagedFile, InputError):
        return False


def _read_created_at(snapshots: Snapshots, snapshot_id: str) -> datetime:
    try:
        return datetime.fromisoformat(snapshots.read_manifest(snapshot_id).created_at)
    except (DamagedFile, InputError):
        return datetime.fromtimestamp(0, UTC)


def _read_pool_files(snapshots: Snapshots, snapshot_id: str) -> tuple[str, ...]:
    """The pooled files of a snapshot; none of one whose manifest is damaged, which has its own names for them."""
    try:
        return snapshots.read_manifest(snapshot_id).pool_files
    except DamagedFile:
        return ()
