"""Which snapshots of an index are kept, and which pool files they need.

The live snapshot, pinned snapshots and snapshots that a reader holds open are never removed. Of the others, retention
keeps the newest published ones, those that are young enough, and the newest refused one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.snapshots import Snapshots

POOL_FOLDERS = ("trained", "shards", "evaluations")
RETIRED_VARIABLE = "INDEXMILL_RETIRED_SECONDS"
DEFAULT_RETIRED_SECONDS = 3600.0


def get_retired_seconds() -> float:
    """Return how long an object store keeps the files of a snapshot that was removed."""
    return float(os.environ.get(RETIRED_VARIABLE, DEFAULT_RETIRED_SECONDS))


@contextmanager
def hold_snapshot(snapshots: Snapshots, snapshot_id: str | None = None) -> Iterator[Manifest]:
    """Hold a snapshot open, by default the live one, and yield its manifest. It is not removed before the block ends.

    When the live snapshot is replaced and removed while it is being opened, its successor is opened instead.

    Raises:
        InputError: when there is no such snapshot.
    """
    with ExitStack() as stack:
        yield _hold(snapshots, snapshot_id, stack)


def _hold(snapshots: Snapshots, snapshot_id: str | None, stack: ExitStack) -> Manifest:
    while True:
        live_id = snapshots.get_live_id() or snapshots.read_pointer()
        manifest_path = snapshots.get_path(snapshot_id or live_id or "none") / "manifest.json"
        try:
            stack.enter_context(snapshots.root.store.hold_reader(manifest_path))
            return snapshots.read_manifest(manifest_path.parent.name)
        except (FileNotFoundError, InputError):
            stack.close()
            snapshots.root.store.refresh(snapshots.root.index(snapshots.name))
            if snapshot_id or live_id == snapshots.read_pointer():
                snapshots.read_manifest(snapshot_id)  # raises an error that lists what exists
                raise


def list_pinned(snapshots: Snapshots) -> set[str]:
    """Return the ids of the pinned snapshots."""
    ids = snapshots.list_ids()
    return {path.name for path in snapshots.root.list_files(_pins_folder(snapshots), "*") if path.name in ids}


def pin(snapshots: Snapshots, snapshot_id: str, *, keep: bool = True) -> None:
    """Pin a snapshot, or unpin it with `keep=False`. Raises InputError when there is no such snapshot."""
    pin_file = _pins_folder(snapshots) / snapshots.read_manifest(snapshot_id).snapshot_id
    if keep:
        snapshots.root.scratch.write_text(pin_file, "")
    else:
        snapshots.root.remove(pin_file)


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
        if snapshots.root.store.retire(snapshots.get_path(snapshot_id) / "manifest.json")
    ]
    for folder in snapshots.folder.iterdir():
        # The manifest is removed first: a folder without one is not a snapshot, so no reader opens a part of it.
        if not snapshots.root.exists(folder / "manifest.json"):
            shutil.rmtree(folder)
    for path in find_unreferenced_files(snapshots):
        snapshots.root.remove(path)
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
    needed |= _read_retired_files(snapshots)
    files = [path for folder in _list_pool_folders(snapshots) for path in root.list_files(folder, "**")]
    return [path for path in files if path.relative_to(root.path).as_posix() not in needed]


def _read_retired_files(snapshots: Snapshots) -> set[str]:
    """Read which pool files were needed by snapshots that were retired a short while ago; drop the older marks.

    Only object stores have such marks (`storage.object_store`): there, a reader may not be seen at once.
    """
    root, needed = snapshots.root, set[str]()
    if not (marks := root.list_files(snapshots.folder, "*/retired.json")):
        return needed
    now = root.store.now()
    for mark in marks:
        info = root.store.info(mark)
        if info is None or now - info.modified >= get_retired_seconds():
            root.remove(mark)
        else:
            needed |= set(json.loads(root.fetch(mark).read_text(encoding="utf-8"))["pool_files"])
    return needed


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
