"""The whole build as a process: a first build, one with nothing changed, and a search. Medians of the repeats.

Run: python -m benchmarks.spine [--repeats 5]
"""

from __future__ import annotations

import statistics
import tempfile
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import MEBIBYTE, ChildRun, run_child
from benchmarks.report import Report, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST, UNCHANGED, SEARCH = "first build", "build, nothing changed", "search, whole process"


def run_command(*arguments: str) -> ChildRun:
    """Run `indexmill` as a process."""
    return run_child("-m", "indexmill", *arguments, "--json")


def summarize(runs: list[ChildRun]) -> dict[str, Any]:
    """Return all wall seconds, and the medians of CPU seconds and peak memory."""
    return {
        "wall": [run.wall for run in runs],
        "cpu": statistics.median(run.cpu for run in runs),
        "peak_mib": statistics.median(run.peak for run in runs) / MEBIBYTE,
    }


def measure(repeats: int) -> dict[str, Any]:
    """Build demo-text in a temporary root, build it again, and search it."""
    query = "parse a date out of a string"
    with tempfile.TemporaryDirectory() as root:
        first = run_command("build", "demo-text", "--root", root)
        unchanged = [run_command("build", "demo-text", "--root", root) for _ in range(repeats)]
        searches = [run_command("search", "demo-text", query, "--root", root) for _ in range(repeats)]
    return {
        "items": first.result["items"],
        "search_ms": statistics.median(float(run.result["search_ms"]) for run in searches),
        "runs": {FIRST: summarize([first]), UNCHANGED: summarize(unchanged), SEARCH: summarize(searches)},
    }


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw wall and CPU seconds side by side: what waits is the difference."""
    from benchmarks.plotting import PALETTE, draw_bars, get_bars_height, split_panels

    runs = results["runs"]
    wall, cpu = split_panels(figure, 2, height=get_bars_height(len(runs)), sharey=True)
    draw_bars(wall, {name: statistics.median(run["wall"]) for name, run in runs.items()}, unit="wall seconds")
    draw_bars(cpu, {name: run["cpu"] for name, run in runs.items()}, unit="CPU seconds of all processes", colors=PALETTE[1])
    figure.suptitle(f"demo-text, {results['items']:,} items", x=0.01, ha="left", fontweight="bold")


def main() -> None:
    """Print one line per measurement."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    report = Report(options)
    results = measure(options.repeats)
    print(f"demo-text, {results['items']:,} items\n{'':<24} wall s  (range)           CPU s  peak MiB")
    for name, run in results["runs"].items():
        spread = f"({min(run['wall']):.1f} to {max(run['wall']):.1f})"
        print(f"{name:<24} {statistics.median(run['wall']):6.1f}  {spread:<16} {run['cpu']:6.1f}  {run['peak_mib']:8,.0f}")
    print(f"search, FAISS alone: {results['search_ms']:.2f} ms")
    report.finish(results, plot)


if __name__ == "__main__":
    main()
