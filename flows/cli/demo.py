"""Run the demo: two pipelines on real data with real models, then suggestions for what to try next."""

from __future__ import annotations

from rich.console import Console

from indexmill.flows.cli.build import run_build
from indexmill.flows.cli.progress import make_stderr_console, show_progress
from indexmill.flows.cli.render import print_summary
from indexmill.flows.environment import open_root
from indexmill.tasks.progress import use_watcher
from indexmill.tasks.sources.digits import write_digits


def run_demo(root: str, *, verbose: bool = False) -> None:
    """Build demo-text and demo-images below `root`, and print where everything is."""
    storage_root = open_root(root)
    try:
        with show_progress(make_stderr_console()) as progress_display, use_watcher(progress_display):
            digits = write_digits(storage_root)
    finally:
        storage_root.close()
    summaries = [run_build(name, root, [], verbose=verbose) for name in ("demo-text", "demo-images")]
    console = Console(soft_wrap=True)
    console.print()
    for summary in summaries:
        print_summary(summary)
        console.print(f"  index    {summary['path']}")
    option = "" if root == "./indexmill-data" else f" --root {root}"
    console.print("\n[bold]next[/]")
    console.print(f'  indexmill search demo-text "parse a date out of a string"{option}', highlight=False)
    console.print(f"  indexmill search demo-images --image {digits}/3/0003.png{option}", highlight=False)
    console.print(f"  indexmill build demo-text{option}    (again: nothing changed, so nothing is done)", highlight=False)
