"""Print snapshots, their differences, garbage, and the metrics history of an index."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from indexmill.flows.cli.render import make_table
from indexmill.storage.errors import InputError
from indexmill.storage.garbage_collection import Garbage
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile, SnapshotDiff

DEFAULT_METRICS = ("map", "ndcg_at_10", "precision_at_10", "ann_recall_at_10")
SPARKLINE_LEVELS = "▁▂▃▄▅▆▇█"
MAX_BUILDS_SHOWN = 30


def print_snapshots(name: str, rows: list[dict[str, Any]]) -> None:
    """Print one line per snapshot."""
    table = make_table(("snapshot", "built", "", "items", "rejected", "index"), numeric=("items", "rejected"))
    for row in rows:
        marks = [mark for mark in ("live", "pinned") if row[mark]] + [row["verdict"]] * (row["verdict"] == "refused")
        marks += ["forced"] * bool(row["force_reason"])
        counts = (f"{row['items']:,}", f"{row['rejected']:,}")
        table.add_row(row["snapshot_id"], row["created_at"][:16], ", ".join(marks), *counts, row["factory"])
    console = Console()
    console.print(table)
    console.print(f"next: indexmill show {name} SNAPSHOT, indexmill diff {name} BASELINE CANDIDATE, indexmill rollback {name}", style="dim")


def print_snapshot(manifest: Manifest) -> None:
    """Print one snapshot on one screen."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{manifest.name}[/] {manifest.snapshot_id}, {manifest.verdict}, built {manifest.created_at}")
    forced = f" [dim](forced: {escape(manifest.force_reason)})[/]" if manifest.force_reason else ""
    for failed_rule in manifest.failed_rules:
        console.print(f"  failed    {escape(failed_rule)}{forced}")
    sides = f"{manifest.database:,} database, {manifest.query:,} query"
    console.print(f"  items     {manifest.items:,}: {sides}; {manifest.rejected:,} rejected")
    console.print(f"  encoder   {escape(str(manifest.config['encoder']['model']))}, fingerprint {manifest.fingerprint}")
    console.print(f"  index     {manifest.factory}, {manifest.metric}, {manifest.dim} dimensions, {len(manifest.shards)} shards")
    for name in sorted(manifest.metrics):
        console.print(f"  {name:<28} {manifest.metrics[name]:.4f}")
    size = sum(file.size for file in manifest.files) / 1e6
    console.print(f"  files     {len(manifest.files)}, {size:,.1f} MB; previous snapshot: {manifest.parent or 'none'}")


def print_diff(diff: SnapshotDiff) -> None:
    """Print how items and search results differ, and one line per metric."""
    console = Console(highlight=False)
    counts = ", ".join(f"{count:,} {change}" for change, count in diff.items.items())
    console.print(f"items: {counts}; rejected {diff.rejected:+,}")
    if diff.churn_at_10 is not None:
        console.print(f"churn: {diff.churn_at_10:.1%} of the top-10 results differ, over {diff.common_queries:,} common queries")
    headings = ("metric", "baseline", "candidate", "difference", "95 % interval", "p", "queries")
    table = make_table(headings, numeric=headings[1:])
    for name, comparison in diff.metrics.items():
        if comparison.difference is None:
            continue
        table.add_row(
            name,
            f"{comparison.baseline:.4f}",
            f"{comparison.candidate:.4f}",
            f"{comparison.difference:+.4f}",
            f"{comparison.low:+.4f} {comparison.high:+.4f}",
            f"{comparison.p_bootstrap:.4f}",
            f"{comparison.queries:,}",
        )
    console.print(table)


def print_rollback(result: dict[str, Any]) -> None:
    """Print which snapshot is live now, and how to keep the other one."""
    name, before = result["name"], result["before"]
    print(f"{name}: {result['live']} is now live; before it was {before}")
    print(f"next: indexmill pin {name} {before} keeps the other one, too")


def print_pin(result: dict[str, Any]) -> None:
    """Print whether a snapshot is pinned now."""
    print(f"{result['name']}: {result['snapshot_id']} is {'pinned' if result['pinned'] else 'no longer pinned'}")


def print_verification(result: dict[str, Any]) -> None:
    """Print that all files of a snapshot are intact."""
    print(f"{result['name']}: all {result['files']} files of {result['snapshot_id']} are intact")


def print_copy(result: dict[str, Any]) -> None:
    """Print how much was copied, and how to use the copy."""
    print(f"copied {result['copied']:,} files, {result['bytes'] / 1e6:,.1f} MB; {result['skipped']:,} were there already")
    print(f"next: indexmill catalog --root {result['target']}")


def print_garbage(garbage: list[Garbage], *, dry_run: bool) -> None:
    """Print what was removed, or what would be."""
    console = Console(highlight=False)
    if not garbage:
        console.print("nothing to remove")
        return
    table = make_table(("kind", "path", "vectors", "MB"), numeric=("vectors", "MB"))
    for piece in garbage:
        table.add_row(piece.kind, piece.path, "" if piece.rows is None else f"{piece.rows:,}", f"{piece.bytes / 1e6:,.1f}")
    console.print(table)
    console.print(f"{sum(piece.bytes for piece in garbage) / 1e6:,.1f} MB {'would be' if dry_run else 'were'} removed")


def print_history(builds: list[MetricsFile], metrics: list[str]) -> None:
    """Print one row per build, for the last MAX_BUILDS_SHOWN of them, and a sparkline per metric.

    Args:
        builds: The metrics of all builds, oldest first.
        metrics: The metrics to show; the default ones if empty.

    Raises:
        InputError: No build has one of the metrics.
    """
    available = sorted({name for build in builds for name in build.metrics})
    names = metrics or [name for name in DEFAULT_METRICS if name in available]
    if unknown := [name for name in names if name not in available]:
        raise InputError("no build has this metric", where="--metric", got=", ".join(unknown), expected="one of: " + ", ".join(available))
    shown = builds[-MAX_BUILDS_SHOWN:]
    console = Console()
    console.print(_build_history_table(shown, names))
    for name in names:
        values = [build.metrics.get(name) for build in shown]
        measured_values = [value for value in values if value is not None]
        if measured_values:
            value_range = f"{min(measured_values):.4f} to {max(measured_values):.4f}"
            console.print(f"{escape(name):<20} {render_sparkline(values)}  {value_range}", highlight=False)
    console.print(f"next: indexmill snapshots {builds[-1].name}", style="dim")


def _build_history_table(builds: list[MetricsFile], names: list[str]) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("snapshot", "built", "verdict"):
        table.add_column(heading, no_wrap=True)
    for heading in ("items", *names):
        table.add_column(heading, justify="right", overflow="fold")
    for build in builds:
        values = (f"{build.metrics[name]:.4f}" if name in build.metrics else "" for name in names)
        verdict = "[red]refused[/]" if build.verdict == "refused" else "forced" if build.force_reason else build.verdict
        table.add_row(build.snapshot_id, build.created_at[:10], verdict, f"{build.counts['items']:,}", *values)
    return table


def render_sparkline(values: list[float | None]) -> str:
    """Return one character per value, and a space for None. If all values are equal, they are in the middle."""
    present = [value for value in values if value is not None]
    low, spread = min(present), max(present) - min(present)
    top = len(SPARKLINE_LEVELS) - 1
    levels = [None if value is None else round((value - low) / spread * top) if spread else len(SPARKLINE_LEVELS) // 2 for value in values]
    return "".join(" " if level is None else SPARKLINE_LEVELS[level] for level in levels)
