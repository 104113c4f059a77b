"""Twelve simulated nightly builds: the cost of an update compared with a full build, and whether it is as good.

Run: python -m benchmarks.runbook [--items 200000] [--dim 384] [--factory IVF256,Flat]
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.report import Report, make_parser
from indexmill.configs.models import IndexConfig
from indexmill.storage.root import Root
from tests.indexing.runbook import BuildResult, play

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def print_night(number: int, result: BuildResult) -> None:
    """Print one line. Seconds are CPU time, of train and shard together."""
    shard_counts = f"{result.built}/{result.updated}/{result.reused}"
    print(
        f"{number:5} {result.items:7}  {result.ids_equal!s:5}  {result.exact_equal!s:5}  {result.recall:.4f} "
        f"{result.fresh_recall:.4f}  {shard_counts:>20}  {result.seconds:7.1f}  {result.fresh_seconds:12.1f}  {result.reason}",
        flush=True,
    )


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw seconds and recall of both kinds of builds, night by night."""
    from benchmarks.plotting import OTHERS, OURS, draw_lines, split_panels

    nights = results["nights"]
    numbers, colors = list(range(len(nights))), (OURS, OTHERS)
    seconds, recall = split_panels(figure, 2, height=3.6)
    for axes, own, fresh, label in (
        (seconds, "seconds", "fresh_seconds", "CPU seconds of train and shard"),
        (recall, "recall", "fresh_recall", "recall@10"),
    ):
        series = {"updated": (numbers, [night[own] for night in nights]), "from nothing": (numbers, [night[fresh] for night in nights])}
        if own == "seconds":
            axes.set_ylim(0, 1.1 * max(max(ys) for _, ys in series.values()))
        draw_lines(axes, series, xlabel="night", ylabel=label, colors=colors)


def main() -> None:
    """Print one line per nightly build."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--factory", default="IVF256,Flat")
    parser.add_argument("--nprobe", type=int, default=16)
    options = parser.parse_args()
    report = Report(options)
    config = IndexConfig.model_validate({"factory": options.factory, "shard_bytes": options.items // 4 * (4 * options.dim + 8)})
    print("night   items  ids    exact  recall fresh  built/updated/reused    CPU s    full build  training")
    nights = []
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        builds = play(root, config, items=options.items, dim=options.dim, clusters=options.clusters, nprobe=options.nprobe, queries=1000)
        for number, result in enumerate(builds):
            print_night(number, result)
            nights.append(asdict(result))
        root.close()
    report.finish({"nights": nights}, plot)


if __name__ == "__main__":
    main()
