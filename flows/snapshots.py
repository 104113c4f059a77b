"""Operations on the published snapshots of an index: list, compare, roll back, pin and verify."""

from __future__ import annotations

import difflib
from typing import Any

from indexmill.configs.loading import list_bundled_pipelines
from indexmill.storage.errors import InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile, SnapshotDiff, read_metrics_history
from indexmill.storage.retention import list_pinned, pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots


def check_index(root: Root, name: str) -> None:
    """Raise InputError if the index has no snapshot; the error lists the indexes under this root."""
    if Snapshots(root, name).list_ids():
        return
    indexes = [index for index in root.list_indexes() if Snapshots(root, index).list_ids()]
    similar = difflib.get_close_matches(name, indexes, n=1)
    if similar:
        next_step = f"did you mean {similar[0]}?"
    elif name in list_bundled_pipelines():
        next_step = f"indexmill build {name}"
    else:
        next_step = "choose one of these, or build one: indexmill pipelines" if indexes else "build one first: indexmill pipelines"
    raise InputError(
        f"there is no index {name}",
        where=str(root),
        expected="one of: " + ", ".join(indexes) if indexes else "a published index; there is none under this root yet",
        got=name,
        next_step=next_step,
    )


def list_snapshots(root: Root, name: str) -> list[dict[str, Any]]:
    """Return one row per snapshot, oldest first."""
    snapshots = Snapshots(root, name)
    live, pinned = snapshots.get_live_id(), list_pinned(snapshots)
    return [
        {
            "snapshot_id": manifest.snapshot_id,
            "created_at": manifest.created_at,
            "verdict": manifest.verdict,
            "force_reason": manifest.force_reason,
            "live": manifest.snapshot_id == live,
            "pinned": manifest.snapshot_id in pinned,
            "items": manifest.items,
            "rejected": manifest.rejected,
            "factory": manifest.factory,
            "metrics": manifest.metrics,
        }
        for manifest in snapshots.read_manifests()
    ]


def get_manifest(root: Root, name: str, snapshot_id: str | None) -> Manifest:
    """Return the manifest of a snapshot, by default of the live one."""
    return Snapshots(root, name).read_manifest(snapshot_id)


def compare_snapshots(root: Root, name: str, baseline: str, candidate: str | None) -> SnapshotDiff:
    """Compare a snapshot with a baseline.

    Args:
        root: The root of the index.
        name: The index.
        baseline: The id of the snapshot to compare with.
        candidate: The id of the snapshot to compare; None means the live one.
    """
    from indexmill.tasks.evaluation.snapshot_diff import SnapshotTables, compute_snapshot_diff  # slow to import, and only needed here

    snapshots = Snapshots(root, name)
    baseline_manifest, candidate_manifest = snapshots.read_manifest(baseline), snapshots.read_manifest(candidate)
    baseline_tables, candidate_tables = (
        SnapshotTables(snapshots.file(manifest, "report/per_query.parquet"), snapshots.file(manifest, "items.parquet"))
        for manifest in (baseline_manifest, candidate_manifest)
    )
    return compute_snapshot_diff(
        baseline_manifest.snapshot_id,
        baseline_tables,
        candidate_tables,
        rejected=candidate_manifest.rejected - baseline_manifest.rejected,
        metrics=sorted(candidate_manifest.metrics),
        temp_dir=root.tmp,
    )


def rollback_snapshot(root: Root, name: str, snapshot_id: str | None) -> tuple[str, str]:
    """Make an earlier snapshot live, after checking all its files. The one that was live is withdrawn.

    Args:
        root: The root of the index.
        name: The index.
        snapshot_id: The snapshot; None means the newest published one before the live one.

    Returns:
        The ids of the previously live snapshot and of the one that is live now.

    Raises:
        BuildInProgress: A build of this index is running; rollback does not wait for it.
        InputError: There is no such snapshot, or the gate refused it.
        DamagedFile: One of its files is damaged.
    """
    from indexmill.storage import catalog  # imports DuckDB, which is slow, and which no other command here needs

    snapshots = Snapshots(root, name)
    with root.hold_shared(), root.lease_index(name, "rollback"):
        live = snapshots.read_manifest()
        target = snapshots.read_manifest(snapshot_id or _find_previous_published(snapshots, live))
        if target.verdict == "refused":
            raise InputError(
                "the gate refused this snapshot, so it cannot become live",
                where=f"index {name}",
                got=target.snapshot_id,
                next_step="build again with --force REASON to publish it anyway",
            )
        snapshots.verify(target)
        snapshots.withdraw(live.snapshot_id)  # or the next build without changes would publish it again
        snapshots.publish(target.snapshot_id, replacing=live.snapshot_id)
        catalog.rebuild(root)
    return live.snapshot_id, target.snapshot_id


def _find_previous_published(snapshots: Snapshots, live: Manifest) -> str:
    earlier = [
        snapshot_id
        for snapshot_id in snapshots.list_ids()
        if snapshot_id < live.snapshot_id and snapshots.read_manifest(snapshot_id).verdict == "published"
    ]
    if not earlier:
        raise InputError(
            "there is no earlier published snapshot",
            where=f"index {snapshots.name}",
            got=f"{live.snapshot_id} is live, and it is the oldest",
            next_step=f"indexmill snapshots {snapshots.name}",
        )
    return earlier[-1]


def pin_snapshot(root: Root, name: str, snapshot_id: str | None, *, keep: bool) -> str:
    """Pin a snapshot (`keep`) or unpin it, by default the live one; return its id."""
    snapshots = Snapshots(root, name)
    snapshot_id = snapshots.read_manifest(snapshot_id).snapshot_id
    pin(snapshots, snapshot_id, keep=keep)
    return snapshot_id


def verify_snapshot(root: Root, name: str, snapshot_id: str | None) -> Manifest:
    """Check every file of a snapshot; return its manifest. Raises DamagedFile for the first file that does not match."""
    snapshots = Snapshots(root, name)
    manifest = snapshots.read_manifest(snapshot_id)
    snapshots.verify(manifest)
    return manifest


def read_history(root: Root, name: str) -> list[MetricsFile]:
    """Return the metrics of all builds of an index, oldest first. Raises InputError if there are none."""
    builds = read_metrics_history(root, name)
    if not builds:
        check_index(root, name)
        raise InputError("this index has no metrics history", where=str(root), got=name, next_step="the next build of it starts one")
    return builds
