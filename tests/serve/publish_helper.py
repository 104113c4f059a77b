"""Publish without a build: a copy of a snapshot under the next id, in milliseconds."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage.retention import apply_retention
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots


def publish_again(path: Path | str, name: str, *, keep: int = 3, live: bool = True, like: str | None = None, **changes: object) -> str:
    """Publish the files of a snapshot as a new one, and remove old snapshots.

    Args:
        path: The root, or its URL.
        name: The index.
        keep: The number of snapshots that retention keeps.
        live: Point `current` at the new snapshot and apply retention.
        like: The snapshot to copy; the live one by default.
        changes: Changes to the manifest.

    Returns:
        The id of the new snapshot.
    """
    root = Root(path, create=False)
    try:
        snapshots = Snapshots(root, name)
        model = snapshots.read_manifest(like)
        number = max(int(snapshot_id.split("-")[0]) for snapshot_id in snapshots.list_ids()) + 1
        folder = snapshots.fetch(model).relative_to(root.path).as_posix()
        manifest = model.model_copy(update={"snapshot_id": f"{number:05d}-{model.snapshot_id[6:]}", "parent": model.snapshot_id, **changes})
        snapshots.assemble(manifest, {ref.path: ref.model_copy(update={"path": f"{folder}/{ref.path}"}) for ref in model.files})
        if live:
            snapshots.publish(manifest.snapshot_id)
            apply_retention(snapshots, keep)
        return manifest.snapshot_id
    finally:
        root.close()
