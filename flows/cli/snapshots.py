"""Commands for published snapshots: list, show, diff, roll back, pin, verify and collect garbage."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from indexmill.flows.cli.options import JsonOption, NameArgument, RootOption, open_existing_root
from indexmill.flows.environment import DEFAULT_ROOT

snapshot_commands = typer.Typer()
SnapshotArgument = Annotated[str | None, typer.Argument(help="The snapshot; the live one by default.")]


@snapshot_commands.command()
def snapshots(name: NameArgument, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """List the snapshots of an index."""
    from indexmill.flows.snapshots import list_snapshots, print_snapshots

    with open_existing_root(root) as storage_root:
        rows = list_snapshots(storage_root, name)
        print(json.dumps(rows)) if as_json else print_snapshots(name, rows)


@snapshot_commands.command()
def show(name: NameArgument, snapshot: SnapshotArgument = None, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Show what a snapshot is made of."""
    from indexmill.flows.snapshots import get_manifest, print_snapshot

    with open_existing_root(root) as storage_root:
        manifest = get_manifest(storage_root, name, snapshot)
        print(manifest.model_dump_json()) if as_json else print_snapshot(manifest)


@snapshot_commands.command()
def diff(
    name: NameArgument,
    baseline: Annotated[str, typer.Argument(help="A snapshot.")],
    candidate: SnapshotArgument = None,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Compare two snapshots: items, figures by paired tests, neighbours."""
    from indexmill.flows.snapshots import difference, print_diff

    with open_existing_root(root) as storage_root:
        found = difference(storage_root, name, baseline, candidate)
        print(found.model_dump_json()) if as_json else print_diff(found)


@snapshot_commands.command()
def rollback(name: NameArgument, snapshot: SnapshotArgument = None, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Make an earlier snapshot the live one: the one before by default. Its files are checked first."""
    from indexmill.flows.snapshots import rollback_snapshot

    with open_existing_root(root) as storage_root:
        before, candidate = rollback_snapshot(storage_root, name, snapshot)
        if as_json:
            print(json.dumps({"name": name, "before": before, "live": candidate}))
        else:
            print(f"{name}: {candidate} is live, {before} was\nnext: indexmill pin {name} {before} keeps that one, too")


@snapshot_commands.command()
def pin(
    name: NameArgument,
    snapshot: SnapshotArgument = None,
    off: Annotated[bool, typer.Option("--off", help="Let it go again.")] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Keep a snapshot for as long as it is pinned."""
    from indexmill.flows.snapshots import pin_snapshot

    with open_existing_root(root) as storage_root:
        found = pin_snapshot(storage_root, name, snapshot, keep=not off)
        if as_json:
            print(json.dumps({"name": name, "snapshot_id": found, "pinned": not off}))
        else:
            print(f"{name}: {found} is {'no longer ' if off else ''}pinned")


@snapshot_commands.command()
def verify(name: NameArgument, snapshot: SnapshotArgument = None, root: RootOption = DEFAULT_ROOT, as_json: JsonOption = False) -> None:
    """Check every file of a snapshot by its digest."""
    from indexmill.flows.snapshots import verify_snapshot

    with open_existing_root(root) as storage_root:
        manifest = verify_snapshot(storage_root, name, snapshot)
        if as_json:
            print(json.dumps({"name": name, "snapshot_id": manifest.snapshot_id, "files": len(manifest.files), "whole": True}))
        else:
            print(f"{name}: all {len(manifest.files)} files of {manifest.snapshot_id} are whole")


@snapshot_commands.command()
def gc(
    days: Annotated[float, typer.Option(min=0, help="Leave alone what is younger.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    root: RootOption = DEFAULT_ROOT,
    as_json: JsonOption = False,
) -> None:
    """Remove what no kept snapshot needs: old snapshots, vectors, tables of stages."""
    from dataclasses import asdict

    from indexmill.flows.snapshots import print_garbage
    from indexmill.storage.garbage_collection import collect_garbage

    with open_existing_root(root) as storage_root, storage_root.hold_exclusive("indexmill gc"):
        found = collect_garbage(storage_root, days=days, dry_run=dry_run)
        print(json.dumps([asdict(one) for one in found])) if as_json else print_garbage(found, dry_run=dry_run)
