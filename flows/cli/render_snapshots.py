"""Print snapshots, their differences and the metrics history of an index."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from indexmill.storage.errors import InputError
from indexmill.storage.metrics_file import MetricsFile, read_metrics_history
from indexmill.storage.root import Root

DEFAULT_METRICS = ("map", "ndcg_at_10", "precision_at_10", "ann_recall_at_10")
SPARKLINE_LEVELS = "▁▂▃▄▅▆▇█"
MAX_BUILDS_SHOWN = 30  # builds


def read_history(root: str, name: str) -> list[MetricsFile]:
    """The figures of all builds of an index, oldest first. Raises InputError when there is none."""
    storage_root = Root(root, create=False)
    try:
        builds = read_metrics_history(storage_root, name)
    finally:
        storage_root.close()
    if not builds:
        raise InputError("this index has no history", where=f"{storage_root.path}", got=name, next_step=f"indexmill build {name}")
    return builds


def print_history(builds: list[MetricsFile], measures: list[str]) -> None:
    """A row a build, the last SHOWN of them, and a line of bars a measure."""
    console = Console()
    wanted = measures or [name for name in DEFAULT_METRICS if any(name in one.metrics for one in builds)]
    if unknown := [name for name in wanted if not any(name in one.metrics for one in builds)]:
        known = ", ".join(sorted({name for one in builds for name in one.metrics}))
        raise InputError("no build has this measure", where="--measure", got=", ".join(unknown), expected=known)
    table = Table(box=None, header_style="bold")
    for heading in ("snapshot", "built", "verdict"):
        table.add_column(heading, no_wrap=True)
    for heading in ("items", *wanted):
        table.add_column(heading, justify="right", overflow="fold")
    for one in builds[-MAX_BUILDS_SHOWN:]:
        figures = (f"{one.metrics[name]:.4f}" if name in one.metrics else "" for name in wanted)
        verdict = "[red]refused[/]" if one.verdict == "refused" else "force_reason" if one.force_reason else one.verdict
        table.add_row(one.snapshot_id, one.created_at[:10], verdict, f"{one.counts['items']:,}", *figures)
    console.print(table)
    for name in wanted:
        values = [one.metrics.get(name) for one in builds[-MAX_BUILDS_SHOWN:]]
        measured_values = [value for value in values if value is not None]
        if measured_values:
            console.print(
                f"{escape(name):<20} {render_sparkline(values)}  {min(measured_values):.4f} to {max(measured_values):.4f}", highlight=False
            )
    console.print(f"next: indexmill build {builds[-1].name}", style="dim")


def render_sparkline(values: list[float | None]) -> str:
    """One bar a value, lowest to highest; a gap where there is none. Equal values are all in the middle."""
    known = [value for value in values if value is not None]
    low, width = min(known), max(known) - min(known)
    heights = [
        None if value is None else round((value - low) / width * (len(SPARKLINE_LEVELS) - 1)) if width else len(SPARKLINE_LEVELS) // 2
        for value in values
    ]
    return "".join(" " if height is None else SPARKLINE_LEVELS[height] for height in heights)
