"""What a build left behind: its live manifest, the stages it ran, the items its index holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss

from indexmill.storage.manifests import Manifest
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots


def open_snapshots(root: Path) -> Snapshots:
    return Snapshots(Root(root), "demo-images")


def read_manifest(root: Path) -> Manifest:
    """The manifest of the live snapshot."""
    return open_snapshots(root).read_manifest()


def list_run_stages(summary: dict[str, Any]) -> set[str]:
    """The stages that were run and not taken from the cache."""
    return {name for name, run in summary["stages"].items() if not run["cached"]}


def count_indexed_items(root: Path) -> dict[int, int]:
    """Item id -> number of times that the published FAISS files hold it."""
    snapshots = open_snapshots(root)
    manifest = snapshots.read_manifest()
    counts: dict[int, int] = {}
    for shard in manifest.shards:
        index = faiss.read_index(str(snapshots.get_path(manifest.snapshot_id) / shard.index.path))
        for item in faiss.vector_to_array(index.id_map).tolist():
            counts[item] = counts.get(item, 0) + 1
    return counts
