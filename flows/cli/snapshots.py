"""Commands for published snapshots: list, show, compare, roll back, pin, verify, and garbage collection."""

from __future__ import annotations

from typing import Annotated

import typer

from indexmill.flows.cli.options import KEEP, LOOK, JsonOption, NameArgument, RootOption, VerboseOption, open_existing_root
from indexmill.flows.environment import DEFAULT_ROOT

snapshot_commands = typer.Typer()
SnapshotArgument = Annotated[str | None, typer.Argument(help="The snapshot; the live one by default.")]
EarlierSnapshotArgument = Annotated[str | None, typer.Argument(help="The snapshot; the previous published one by default.")]


@snapshot_commands.command(rich_help_panel=LOOK)
def snapshots(name: NameArgument, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List the snapshots of an index."""
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_snapshots
    from indexmill.flows.snapshots import list_snapshots

    with open_existing_root(root, name) as storage_root:
        print_result(list_snapshots(storage_root, name), as_json, lambda rows: print_snapshots(name, rows))


@snapshot_commands.command(rich_help_panel=LOOK)
def show(name: NameArgument, snapshot: SnapshotArgument = None, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Show one snapshot: items, encoder, index, metrics, files."""
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_snapshot
    from indexmill.flows.snapshots import get_manifest

    with open_existing_root(root, name) as storage_root:
        manifest = get_manifest(storage_root, name, snapshot)
        print_result(manifest.model_dump(mode="json"), as_json, lambda _: print_snapshot(manifest))


@snapshot_commands.command(rich_help_panel=LOOK)
def diff(
    name: NameArgument,
    baseline: Annotated[str, typer.Argument(help="The snapshot to compare with.")],
    candidate: SnapshotArgument = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Compare two snapshots: items, metrics, search results.

    Metrics are compared by paired tests over the queries that both snapshots have.
    """
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_diff
    from indexmill.flows.snapshots import compare_snapshots

    with open_existing_root(root, name) as storage_root:
        snapshot_diff = compare_snapshots(storage_root, name, baseline, candidate)
        print_result(snapshot_diff.model_dump(mode="json"), as_json, lambda _: print_diff(snapshot_diff))


@snapshot_commands.command(rich_help_panel=KEEP)
def rollback(
    name: NameArgument, snapshot: EarlierSnapshotArgument = None, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False
) -> None:
    """Make an earlier snapshot live; by default the previous published one.

    Its files are checked first.
    """
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_rollback
    from indexmill.flows.snapshots import rollback_snapshot

    with open_existing_root(root, name) as storage_root:
        before, live = rollback_snapshot(storage_root, name, snapshot)
        print_result({"name": name, "before": before, "live": live}, as_json, print_rollback)


@snapshot_commands.command(rich_help_panel=KEEP)
def pin(
    name: NameArgument,
    snapshot: SnapshotArgument = None,
    off: Annotated[bool, typer.Option("--off", help="Unpin the snapshot.")] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Exempt a snapshot from retention."""
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_pin
    from indexmill.flows.snapshots import pin_snapshot

    with open_existing_root(root, name) as storage_root:
        snapshot_id = pin_snapshot(storage_root, name, snapshot, keep=not off)
        print_result({"name": name, "snapshot_id": snapshot_id, "pinned": not off}, as_json, print_pin)


@snapshot_commands.command(rich_help_panel=KEEP)
def verify(name: NameArgument, snapshot: SnapshotArgument = None, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Check every file of a snapshot against its digest."""
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_verification
    from indexmill.flows.snapshots import verify_snapshot

    with open_existing_root(root, name) as storage_root:
        manifest = verify_snapshot(storage_root, name, snapshot)
        result = {"name": name, "snapshot_id": manifest.snapshot_id, "files": len(manifest.files), "whole": True}
        print_result(result, as_json, print_verification)


@snapshot_commands.command(rich_help_panel=KEEP)
def gc(
    days: Annotated[float, typer.Option(min=0, help="Keep everything younger than this many days.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Remove what no kept snapshot needs.

    Removes expired snapshots, unused embeddings, and tables of old stages. Does not wait: it fails if a build is
    running.
    """
    from dataclasses import asdict

    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_garbage
    from indexmill.storage.garbage_collection import collect_garbage

    with open_existing_root(root) as storage_root, storage_root.hold_exclusive("indexmill gc"):
        garbage = collect_garbage(storage_root, days=days, dry_run=dry_run)
        print_result([asdict(piece) for piece in garbage], as_json, lambda _: print_garbage(garbage, dry_run=dry_run))


@snapshot_commands.command(rich_help_panel=KEEP)
def copy(
    source: Annotated[str, typer.Argument(help="The root to copy: a directory, or an s3://, gs:// or az:// URL.")],
    target: Annotated[str, typer.Argument(help="The root to write to; it may hold an older copy.")],
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Copy a root, for example from a directory into an object store.

    Checks every snapshot's digests. Run it again to continue a copy that was interrupted, or to bring one up to date.
    """
    from dataclasses import asdict

    from indexmill.flows.cli.progress import show_progress
    from indexmill.flows.cli.render import print_result
    from indexmill.flows.cli.render_snapshots import print_copy
    from indexmill.flows.pipeline_context import open_root
    from indexmill.storage.copying import copy_root, list_keys
    from indexmill.tasks.progress import track

    with open_existing_root(source, verbose=verbose) as source_root, open_root(target) as target_root, show_progress():
        with track("copying", sum(1 for _ in list_keys(source_root))) as advance:
            result = {"source": str(source_root), "target": str(target_root), **asdict(copy_root(source_root, target_root, advance))}
        print_result(result, as_json, print_copy)
