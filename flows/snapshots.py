"""What can be asked of snapshots and done with them, and how it is printed."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from indexmill.storage import catalog
from indexmill.storage.errors import InputError
from indexmill.storage.garbage_collection import Garbage
from indexmill.storage.locks import lease
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import SnapshotDiff
from indexmill.storage.retention import list_pinned, pin
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots


def list_snapshots(root: Root, name: str) -> list[dict[str, Any]]:
    """A row a snapshot, oldest first."""
    snapshots = Snapshots(root, name)
    live, kept = snapshots.get_live_id(), list_pinned(snapshots)
    manifests = list(snapshots.read_manifests()) or [snapshots.read_manifest()]  # which says that there is none
    return [
        {"snapshot_id": one.snapshot_id, "created_at": one.created_at, "verdict": one.verdict, "force_reason": one.force_reason,
         "live": one.snapshot_id == live, "pinned": one.snapshot_id in kept, "items": one.items, "rejected": one.rejected,
         "factory": one.factory, "metrics": one.metrics}
        for one in manifests
    ]  # fmt: skip


def get_manifest(root: Root, name: str, snapshot_id: str | None) -> Manifest:
    """The manifest of a snapshot, of the live one by default."""
    return Snapshots(root, name).read_manifest(snapshot_id)


def difference(root: Root, name: str, baseline: str, candidate: str | None) -> SnapshotDiff:
    """What differs in `candidate` (the live one by default) from `baseline`."""
    from indexmill.tasks.evaluation.snapshot_diff import compute_snapshot_diff

    snapshots = Snapshots(root, name)
    left, right = snapshots.read_manifest(baseline), snapshots.read_manifest(candidate)
    sides = [
        tuple(snapshots.get_path(one.snapshot_id) / path for path in ("report/per_query.parquet", "items.parquet")) for one in (left, right)
    ]
    (queries, items), (later_queries, later_items) = sides
    return compute_snapshot_diff(
        left.snapshot_id, (queries, items), (later_queries, later_items), right.rejected - left.rejected, sorted(right.metrics),
        temp_dir=root.tmp,
    )  # fmt: skip


def rollback_snapshot(root: Root, name: str, snapshot_id: str | None) -> tuple[str, str]:
    """Point at an earlier snapshot, the newest published one before the live one by default: the ids before and after.

    Waits for no build: raises BuildInProgress while one is under way. Every file is checked first; a refused snapshot is not gone back to.
    """
    snapshots = Snapshots(root, name)
    with root.hold_shared(), lease(root.index(name) / "lease", holder=f"rollback of {name}"):
        live = snapshots.read_manifest()
        wanted = snapshots.read_manifest(snapshot_id or _find_previous_published(snapshots, live))
        if wanted.verdict == "refused":
            raise InputError(
                "the gate refused this snapshot", where=f"index {name}", got=wanted.snapshot_id,
                next_step=f"indexmill build {name} --force REASON publishes such a build",
            )  # fmt: skip
        snapshots.verify(wanted)
        snapshots.publish(wanted.snapshot_id)
        catalog.rebuild(root)
    return live.snapshot_id, wanted.snapshot_id


def _find_previous_published(snapshots: Snapshots, live: Manifest) -> str:
    earlier = [one for one in snapshots.list_ids() if one < live.snapshot_id and snapshots.read_manifest(one).verdict == "published"]
    if not earlier:
        raise InputError(
            "there is no snapshot to go back to", where=f"index {snapshots.name}", got=f"the live one, {live.snapshot_id}, is the oldest",
            next_step=f"indexmill snapshots {snapshots.name}",
        )  # fmt: skip
    return earlier[-1]


def pin_snapshot(root: Root, name: str, snapshot_id: str | None, *, keep: bool) -> str:
    """Pin a snapshot, the live one by default, or let it go; its id."""
    snapshots = Snapshots(root, name)
    found = snapshots.read_manifest(snapshot_id).snapshot_id
    pin(snapshots, found, keep=keep)
    return found


def verify_snapshot(root: Root, name: str, snapshot_id: str | None) -> Manifest:
    """The manifest of a snapshot whose files are all whole; raises DamagedFile for the first that is not."""
    snapshots = Snapshots(root, name)
    manifest = snapshots.read_manifest(snapshot_id)
    snapshots.verify(manifest)
    return manifest


def print_snapshots(name: str, rows: list[dict[str, Any]]) -> None:
    """A line a snapshot."""
    table = Table(box=None, header_style="bold")
    for heading in ("snapshot", "built", "", "items", "rejected", "index"):
        table.add_column(heading, justify="right" if heading in ("items", "rejected") else "left")
    for row in rows:
        marks = [mark for mark in ("live", "pinned") if row[mark]] + [row["verdict"]] * (row["verdict"] == "refused")
        marks += ["force_reason"] * bool(row["force_reason"])
        counts = (f"{row['items']:,}", f"{row['rejected']:,}")
        table.add_row(row["snapshot_id"], row["created_at"][:16], ", ".join(marks), *counts, row["factory"])
    Console().print(table)
    Console().print(f"next: indexmill show {name} SNAPSHOT, indexmill diff {name} A B, indexmill rollback {name}", style="dim")


def print_snapshot(manifest: Manifest) -> None:
    """A snapshot on one screen."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{manifest.name}[/] {manifest.snapshot_id}, {manifest.verdict}, built {manifest.created_at}")
    for objection in manifest.failed_rules:
        console.print(
            f"  objection {escape(objection)}" + (f" [dim](forced: {escape(manifest.force_reason)})[/]" if manifest.force_reason else "")
        )
    sides = f"{manifest.database:,} database, {manifest.query:,} query"
    console.print(f"  items     {manifest.items:,}: {sides}; {manifest.rejected:,} rejected")
    console.print(f"  encoder   {escape(str(manifest.config['encoder']['model']))}, fingerprint {manifest.fingerprint}")
    console.print(f"  index     {manifest.factory}, {manifest.metric}, {manifest.dim} numbers, {len(manifest.shards)} shards")
    for name in sorted(manifest.metrics):
        console.print(f"  {name:<28} {manifest.metrics[name]:.4f}")
    console.print(f"  files     {len(manifest.files)}, {sum(ref.size for ref in manifest.files) / 1e6:,.1f} MB; after {manifest.parent}")


def print_diff(found: SnapshotDiff) -> None:
    """Items, churn, and a line a measure."""
    console = Console(highlight=False)
    console.print("items: " + ", ".join(f"{count:,} {kind}" for kind, count in found.items.items()) + f"; rejected {found.rejected:+,}")
    if found.churn_at_10 is not None:
        console.print(f"of the first ten results {found.churn_at_10:.1%} are others, over {found.common_queries:,} common queries")
    table = Table(box=None, header_style="bold")
    for heading in ("measure", "then", "now", "difference", "95 % interval", "p", "queries"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for name, one in found.metrics.items():
        if one.difference is None:
            continue
        interval, p = f"{one.low:+.4f} {one.high:+.4f}", f"{one.p_bootstrap:.4f}"
        table.add_row(name, f"{one.baseline:.4f}", f"{one.candidate:.4f}", f"{one.difference:+.4f}", interval, p, f"{one.queries:,}")
    console.print(table)


def print_garbage(found: list[Garbage], *, dry_run: bool) -> None:
    """What was or would be removed."""
    table = Table(box=None, header_style="bold")
    for heading in ("what", "where", "vectors", "MB"):
        table.add_column(heading, justify="right" if heading in ("vectors", "MB") else "left", overflow="fold")
    for one in found:
        table.add_row(one.kind, one.path, "" if one.rows is None else f"{one.rows:,}", f"{one.bytes / 1e6:,.1f}")
    console = Console(highlight=False)
    if found:
        console.print(table)
    total = sum(one.bytes for one in found) / 1e6
    console.print("nothing to remove" if not found else f"{total:,.1f} MB could be removed" if dry_run else f"{total:,.1f} MB removed")
