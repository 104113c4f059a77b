"""Our metrics on a large evaluation, 20,000 queries against 80,000 vectors, compared with scikit-learn and ranx.

Three pieces: the exact neighbors to a depth of 1,000; relevance by label of those rankings; average precision over the whole database.
Every piece runs in a process of its own, so that peak memory is its own; data and rankings are kept in files. The peers get fewer queries
(--peer-queries), and ours are measured with as many too. Metrics are compared query by query, and any difference is a failure.
ranx is not a dependency (docs/decisions.md says why): pip install --target PEERS ranx, and name the folder; otherwise it is skipped.

Run: python -m benchmarks.evaluate [--peers PEERS] [--queries 20000] [--peer-queries 1000] [--database 80000] [--dim 384]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evaluating import data
from benchmarks.evaluating.work import WORK
from benchmarks.measuring import MEBIBYTE, get_peak_bytes, run_child
from benchmarks.report import Report, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PEER_PIECES = {"exact": "exact_sklearn", "relevance": "relevance_ranx", "full": "full_sklearn"}
PIECE_LABELS = {
    "exact": "exact search, depth {depth:,}", "exact_sklearn": "  scikit-learn NearestNeighbors, brute",
    "relevance": "8 metrics of rankings, depth {depth:,}", "relevance_ranx": "  ranx, 6 metrics",
    "full": "average precision of {database:,} ranked", "full_sklearn": "  scikit-learn average_precision_score",
}  # fmt: skip
TOLERANCE = 1e-5  # of a metric between 0 and 1
MIN_COMMON_NEIGHBORS = 0.9999  # share of neighbors; the others are ties within float32 rounding


def main() -> None:
    """Measure, compare, and print a Markdown table."""
    options = parse_arguments()
    if options.step:
        print(json.dumps(measure_piece(options)))
        return
    report, rows = Report(options), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write_data(folder, options.queries, options.database, options.dim, options.labels)
        shape = f"{options.queries:,} queries, {options.database:,} vectors with {options.dim} dimensions"
        print(f"{shape}, {options.labels} labels")
        print("\n| work | queries | seconds | CPU s | ms per query | peak MiB | MiB before |\n|---|---|---|---|---|---|---|")
        differences = [difference for ours, peer in PEER_PIECES.items() for difference in compare_piece(ours, peer, folder, options, rows)]
    print(*differences or ["\nall metrics agree"], sep="\n")
    report.finish({"rows": rows, "differences": differences}, plot)
    raise SystemExit(bool(differences))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    for flag, default in (("--queries", 20_000), ("--peer-queries", 1000), ("--database", 80_000), ("--dim", 384), ("--labels", 200)):
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--peers", type=Path, help="folder with ranx")
    parser.add_argument("--step", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def compare_piece(ours: str, peer: str, folder: Path, options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    """Run one piece with our code, again on fewer queries, and with the peer.

    Adds a row per run to `rows`; returns what differs between the last two.
    """
    peer_queries = min(options.peer_queries, options.queries)
    run_piece(ours, options.queries, folder, options, rows)
    if ours == "exact":
        (folder / "exact-ids.npy").rename(folder / "found.npy")
    if options.queries > peer_queries:
        run_piece(ours, peer_queries, folder, options, rows)
    elif ours == "exact":
        np.save(folder / "exact-ids.npy", np.load(folder / "found.npy", mmap_mode="r"))
    if peer == "relevance_ranx" and options.peers is None:
        print("| ranx is skipped; name its folder with --peers | | | | | | |")
        return []
    return find_differences(ours, peer, folder, run_piece(peer, peer_queries, folder, options, rows))


def run_piece(piece: str, queries: int, folder: Path, options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    """Run one piece in a child process, add its row to `rows` and print it; returns the names of its metrics."""
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("database", "dim", "depth")]
    peers = [f"--peers={options.peers}"] if options.peers else []
    row = run_child("-m", "benchmarks.evaluate", f"--queries={queries}", *flags, *peers, "--step", piece, str(folder)).result
    label = PIECE_LABELS[piece].format(depth=options.depth, database=options.database)
    times = f"{row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['seconds'] / queries * 1000:.2f}"
    print(f"| {label} | {queries:,} | {times} | {row['peak']:,.0f} | {row['before']:,.0f} |", flush=True)
    rows.append({"piece": piece, "label": label.strip(), "queries": queries, **row})
    return list(row["metrics"])


def measure_piece(options: argparse.Namespace) -> dict[str, Any]:
    """Run one piece in this process. Libraries are imported, and ranx is compiled, before the measurement."""
    piece, folder = options.step[0], Path(options.step[1])
    if options.peers:
        sys.path.append(str(options.peers))
    WORK[piece](folder, 10, options.depth)
    before, start, cpu = get_peak_bytes() / MEBIBYTE, time.perf_counter(), time.process_time()
    metrics = WORK[piece](folder, options.queries, options.depth)
    seconds, cpu_seconds, peak = time.perf_counter() - start, time.process_time() - cpu, get_peak_bytes() / MEBIBYTE
    for name, values in metrics.items():
        np.save(folder / f"{piece}-{name}.npy", values)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "before": before, "peak": peak, "metrics": list(metrics)}


def find_differences(ours: str, peer: str, folder: Path, names: list[str]) -> list[str]:
    """Compare the metrics of both last runs query by query; returns the differences."""
    differences = []
    for name in names:
        ours_values, peer_values = (np.load(folder / f"{piece}-{name}.npy", mmap_mode="r") for piece in (ours, peer))
        ours_values = ours_values[: len(peer_values)]
        if name == "ids":
            common = np.mean([len(np.intersect1d(row, other)) / len(row) for row, other in zip(ours_values, peer_values, strict=True)])
            differences += [f"{peer}: {common:.6f} of the neighbors are common"] if common < MIN_COMMON_NEIGHBORS else []
        elif (deviation := float(np.abs(ours_values - peer_values).max())) > TOLERANCE:
            differences.append(f"{peer}: {name} differs by {deviation:.2g}")
    return differences


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw CPU milliseconds per query, of every piece the run with the fewest queries, and peak memory."""
    from benchmarks.plotting import OTHERS, OURS, draw_bars, get_bars_height, split_panels

    rows = {row["label"]: row for row in results["rows"]}
    colors = [OURS if row["piece"] in PEER_PIECES else OTHERS for row in rows.values()]
    times, memory = split_panels(figure, 2, height=get_bars_height(len(rows)), sharey=True)
    milliseconds = {label: row["cpu_seconds"] / row["queries"] * 1000 for label, row in rows.items()}
    draw_bars(times, milliseconds, unit="CPU milliseconds per query", text="{:.2f}", colors=colors)
    draw_bars(memory, {label: row["peak"] for label, row in rows.items()}, unit="peak memory, MiB", text="{:,.0f}", colors=colors)


if __name__ == "__main__":
    main()
