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
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluating import data
from benchmarks.evaluating.work import WORK

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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write_data(folder, options.queries, options.database, options.dim, options.labels)
        shape = f"{options.queries:,} queries, {options.database:,} vectors with {options.dim} dimensions"
        print(f"{shape}, {options.labels} labels; {os.cpu_count()} cores")
        print("\n| work | queries | seconds | CPU s | ms per query | peak MiB | MiB before |\n|---|---|---|---|---|---|---|")
        differences = [difference for ours, peer in PEER_PIECES.items() for difference in compare_piece(ours, peer, folder, options)]
    print(*differences or ["\nall metrics agree"], sep="\n")
    raise SystemExit(bool(differences))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in (("--queries", 20_000), ("--peer-queries", 1000), ("--database", 80_000), ("--dim", 384), ("--labels", 200)):
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--peers", type=Path, help="folder with ranx")
    parser.add_argument("--step", nargs=2, metavar=("WORK", "FOLDER"), help="one piece; used by the script itself")
    return parser.parse_args()


def compare_piece(ours: str, peer: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """Run one piece with our code, again on fewer queries, and with the peer; returns what differs between the last two."""
    peer_queries = min(options.peer_queries, options.queries)
    run_piece(ours, options.queries, folder, options)
    if ours == "exact":
        (folder / "exact-ids.npy").rename(folder / "found.npy")
    if options.queries > peer_queries:
        run_piece(ours, peer_queries, folder, options)
    elif ours == "exact":
        np.save(folder / "exact-ids.npy", np.load(folder / "found.npy", mmap_mode="r"))
    if peer == "relevance_ranx" and options.peers is None:
        print("| ranx is skipped; name its folder with --peers | | | | | | |")
        return []
    return find_differences(ours, peer, folder, run_piece(peer, peer_queries, folder, options))


def run_piece(piece: str, queries: int, folder: Path, options: argparse.Namespace) -> list[str]:
    """Run one piece in a child process and print its row; returns the names of its metrics."""
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("database", "dim", "depth")]
    peers = [f"--peers={options.peers}"] if options.peers else []
    command = [sys.executable, "-m", "benchmarks.evaluate", f"--queries={queries}", *flags, *peers, "--step", piece, str(folder)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise SystemExit(f"{piece} ended with {child.returncode}")
    report: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    label = PIECE_LABELS[piece].format(depth=options.depth, database=options.database)
    times = f"{report['seconds']:.1f} | {report['cpu_seconds']:.1f} | {report['seconds'] / queries * 1000:.2f}"
    print(f"| {label} | {queries:,} | {times} | {report['peak']:,.0f} | {report['before']:,.0f} |", flush=True)
    return list(report["metrics"])


def measure_piece(options: argparse.Namespace) -> dict[str, Any]:
    """Run one piece in this process. Libraries are imported, and ranx is compiled, before the measurement."""
    piece, folder = options.step[0], Path(options.step[1])
    if options.peers:
        sys.path.append(str(options.peers))
    WORK[piece](folder, 10, options.depth)
    before, start, cpu = _get_peak_mib(), time.perf_counter(), time.process_time()
    metrics = WORK[piece](folder, options.queries, options.depth)
    seconds, cpu_seconds, peak = time.perf_counter() - start, time.process_time() - cpu, _get_peak_mib()
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


def _get_peak_mib() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
