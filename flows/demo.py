"""The demo: two pipelines on real data with real models, then what to try next."""

from __future__ import annotations

from rich.console import Console

from indexmill.flows.display import display, stderr_console
from indexmill.flows.environment import open_root
from indexmill.flows.running import run_build
from indexmill.flows.tables import print_summary
from indexmill.tasks.progress import watched_by
from indexmill.tasks.sources.digits import write_digits


def run_demo(root: str, *, verbose: bool = False) -> None:
    """Build demo-text and demo-images below `root`, and print where everything is."""
    place = open_root(root)
    try:
        with display(stderr_console()) as watcher, watched_by(watcher):
            digits = write_digits(place)
    finally:
        place.close()
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
