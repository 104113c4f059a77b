"""Publishing without a build: a snapshot like the live one under the next id, in milliseconds."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage.retention import apply_retention
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots


def publish_again(path: Path, name: str, *, keep: int = 3, live: bool = True, like: str | None = None, **changes: object) -> str:
    """Assemble a snapshot's files, the live one's by default, as a new one, point `current` at it as publish does, remove old ones; its id.

    live: False leaves the pointer alone. like: the snapshot. changes: to the manifest.
    """
    root = Root(path, create=False)
    try:
        snapshots = Snapshots(root, name)
        model = snapshots.read_manifest(like)
        number = max(int(held.split("-")[0]) for held in snapshots.list_ids()) + 1
        folder = snapshots.get_path(model.snapshot_id).relative_to(root.path).as_posix()
        manifest = model.model_copy(update={"snapshot_id": f"{number:05d}-{model.snapshot_id[6:]}", "parent": model.snapshot_id, **changes})
        snapshots.assemble(manifest, {ref.path: ref.model_copy(update={"path": f"{folder}/{ref.path}"}) for ref in model.files})
        if live:
            snapshots.publish(manifest.snapshot_id)
            apply_retention(snapshots, keep)
        return manifest.snapshot_id
    finally:
        root.close()
