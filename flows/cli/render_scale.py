"""Print what a build of any size costs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from indexmill.flows.cli.render import make_table


def print_scale_plan(plan: dict[str, Any]) -> None:
    """Print the stages of a scale plan, their sum, and the settings that this size needs."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"[bold]{plan['name']}[/]: a first build of {plan['items']:,} items of {plan['dim']} dimensions on {plan['cores']:,} cores"
    )
    table = make_table(
        ("stage", "core hours", "hours", "memory GB", "disk GB", ""), numeric=("core hours", "hours", "memory GB", "disk GB")
    )
    for stage in plan["stages"]:
        table.add_row(
            stage["stage"],
            f"{stage['core_hours']:,.1f}",
            f"{stage['hours']:,.1f}",
            f"{stage['memory_bytes'] / 1e9:,.1f}",
            f"{stage['disk_bytes'] / 1e9:,.1f}",
            stage["note"],
        )
    totals = (
        f"{plan['core_hours']:,.1f}",
        f"{plan['hours']:,.1f}",
        f"{plan['memory_bytes'] / 1e9:,.1f}",
        f"{plan['disk_bytes'] / 1e9:,.1f}",
    )
    table.add_row("all", *totals, "", style="bold")
    console.print(table)
    console.print(f"  price     {plan['compute_price']:,.2f} $ of compute, {plan['disk_price']:,.2f} $ a month of disk")
    console.print(
        f"  index     {escape(plan['factory'])}: {plan['shards']:,} files; served from {plan['served_bytes'] / 1e9:,.1f} GB of memory"
    )
    console.print(f"  advised   {escape(plan['recommended_factory'])}: {plan['recommended_shards']:,} files")
    console.print(f"  encoding  {plan['chunks']:,} chunks of {plan['chunk_rows']:,} items")
    for setting in plan["settings"]:
        console.print(f"  [yellow]set[/]       {escape(setting)}")
