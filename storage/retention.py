"""Which snapshots of an index are kept, and which pool files they need.

The live snapshot, pinned snapshots and snapshots that a reader holds open are never removed. Of the others, retention
keeps the newest published ones, those that are young enough, and the newest refused one.
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
    """Hold a snapshot open, by default the live one, and yield its manifest. It is not removed before the block ends.

    When the live snapshot is replaced and removed while it is being opened, its successor is opened instead.

    Raises:
        InputError: when there is no such snapshot.
    """
    handle, manifest = _open_and_lock(snapshots, snapshot_id)
    try:
        yield manifest
    finally:
        os.close(handle)


def _open_and_lock(snapshots: Snapshots, snapshot_id: str | None) -> tuple[int, Manifest]:
    while True:
        live_id = snapshots.read_pointer()
        try:
            return _lock_manifest(snapshots, snapshot_id or live_id or "")
        except FileNotFoundError:
            if snapshot_id or live_id == snapshots.read_pointer():
                snapshots.read_manifest(snapshot_id)  # raises an error that lists what exists
                raise


def _lock_manifest(snapshots: Snapshots, snapshot_id: str) -> tuple[int, Manifest]:
    path = snapshots.get_path(snapshot_id) / "manifest.json"
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle, snapshots.read_manifest(snapshot_id)
    except InputError:
        os.close(handle)
        if not path.exists():  # removed before it was locked
            raise FileNotFoundError(snapshot_id) from None
        raise
    except BaseException:
        os.close(handle)
        raise


def list_pinned(snapshots: Snapshots) -> set[str]:
    """Return the ids of the pinned snapshots."""
    return {path.name for path in _pins_folder(snapshots).glob("*") if path.name in snapshots.list_ids()}


def pin(snapshots: Snapshots, snapshot_id: str, *, keep: bool = True) -> None:
    """Pin a snapshot, or unpin it with `keep=False`. Raises InputError when there is no such snapshot."""
    pin_file = _pins_folder(snapshots) / snapshots.read_manifest(snapshot_id).snapshot_id
    if keep:
        snapshots.root.scratch.write_text(pin_file, "")
    else:
        pin_file.unlink(missing_ok=True)


def find_expired_snapshots(snapshots: Snapshots, keep: int, days: float = 0) -> list[str]:
    """Return the snapshots that may be removed, oldest first.

    Args:
        snapshots: The snapshots of one index.
        keep: How many of the newest published snapshots to keep.
        days: Also keep snapshots younger than this.
    """
    ids = snapshots.list_ids()
    refused = [snapshot_id for snapshot_id in ids if _is_refused(snapshots, snapshot_id)]
    published = [snapshot_id for snapshot_id in ids if snapshot_id not in refused]
    protected = {snapshots.get_live_id(), *list_pinned(snapshots)}
    expired = {*published[:-keep], *refused[:-1]} - protected
    if days:
        oldest_kept = datetime.now(UTC) - timedelta(days=days)
        expired = {snapshot_id for snapshot_id in expired if _read_created_at(snapshots, snapshot_id) <= oldest_kept}
    return [snapshot_id for snapshot_id in ids if snapshot_id in expired]


def apply_retention(snapshots: Snapshots, keep: int, days: float = 0) -> list[str]:
    """Remove the expired snapshots that no reader holds, then the pool files that no snapshot needs.

    Args:
        snapshots: The snapshots of one index.
        keep: How many of the newest published snapshots to keep.
        days: Also keep snapshots younger than this.

    Returns:
        The ids of the removed snapshots, oldest first.
    """
    removed = [
        snapshot_id
        for snapshot_id in find_expired_snapshots(snapshots, keep, days)
        if _unlink_unless_read(snapshots.get_path(snapshot_id) / "manifest.json")
    ]
    for folder in snapshots.folder.iterdir():
        # The manifest is removed first: a folder without one is not a snapshot, so no reader opens a part of it.
        if not (folder / "manifest.json").exists():
            shutil.rmtree(folder)
    for path in find_unreferenced_files(snapshots):
        path.unlink()
    for pool_folder in _list_pool_folders(snapshots):
        for folder in sorted(pool_folder.glob("**/"), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
    return removed


def find_unreferenced_files(snapshots: Snapshots, without: frozenset[str] = frozenset()) -> list[Path]:
    """Return the pool files that no snapshot needs, not counting the snapshots in `without`."""
    root = snapshots.root
    kept_ids = [snapshot_id for snapshot_id in snapshots.list_ids() if snapshot_id not in without]
    needed = {path for snapshot_id in kept_ids for path in _read_pool_files(snapshots, snapshot_id)}
    files = [path for folder in _list_pool_folders(snapshots) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if path.relative_to(root.path).as_posix() not in needed]


def _unlink_unless_read(manifest: Path) -> bool:
    """Remove a manifest unless a reader holds it; return whether it was removed."""
    handle = os.open(manifest, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        manifest.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _list_pool_folders(snapshots: Snapshots) -> list[Path]:
    return [snapshots.root.index(snapshots.name) / name for name in POOL_FOLDERS]


def _pins_folder(snapshots: Snapshots) -> Path:
    return snapshots.root.index(snapshots.name) / "pins"


def _is_refused(snapshots: Snapshots, snapshot_id: str) -> bool:
    """Whether the gate refused a snapshot. One whose manifest cannot be read counts as published."""
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
    """Read which pool files a snapshot needs; none when its manifest is damaged: it has its own links."""
    try:
        return snapshots.read_manifest(snapshot_id).pool_files
    except DamagedFile:
        return ()
