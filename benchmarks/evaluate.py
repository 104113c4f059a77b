"""Our measures on the evaluation's largest work, 20,000 queries against 80,000 vectors, and scikit-learn and ranx on the same work.

Three pieces: the exact neighbours to a depth of 1,000; relevance by label of those rankings; average precision over the whole database.
Every piece runs in a process of its own, so that its peak memory is its own; data and rankings lie in files. The peers are given fewer
queries (--peer-queries), and ours are measured with as many again. Figures are compared query by query: where they differ, this fails.
ranx is no dependency (docs/decisions.md says why): pip install --target PEERS ranx, and name the folder; without it, it is left out.

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

PIECES = {"exact": "exact_sklearn", "relevance": "relevance_ranx", "full": "full_sklearn"}
WHAT = {
    "exact": "exact search, depth {depth:,}", "exact_sklearn": "  scikit-learn NearestNeighbors, brute",
    "relevance": "8 measures of rankings {depth:,} deep", "relevance_ranx": "  ranx, 6 measures",
    "full": "average precision of {database:,} ranked", "full_sklearn": "  scikit-learn average_precision_score",
}  # fmt: skip
TOLERANCE = 1e-5  # of a figure between 0 and 1
SAME = 0.9999  # share of neighbours: those that differ tie within the rounding of float32


def main() -> None:
    """Measure, compare, print a Markdown table."""
    options = parsed()
    if options.step:
        print(json.dumps(step(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data.write(folder, options.queries, options.database, options.dim, options.labels)
        shape = f"{options.queries:,} queries, {options.database:,} vectors of {options.dim} numbers"
        print(f"{shape}, {options.labels} labels; {os.cpu_count()} cores")
        print("\n| work | queries | seconds | CPU s | ms a query | peak MiB | MiB before the work |\n|---|---|---|---|---|---|---|")
        differing = [problem for ours, peer in PIECES.items() for problem in piece(ours, peer, folder, options)]
    print(*differing or ["\nall figures agree"], sep="\n")
    raise SystemExit(bool(differing))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, number in (("--queries", 20_000), ("--peer-queries", 1000), ("--database", 80_000), ("--dim", 384), ("--labels", 200)):
        parser.add_argument(flag, type=int, default=number)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--peers", type=Path, help="folder that ranx was installed into")
    parser.add_argument("--step", nargs=2, metavar=("WORK", "FOLDER"), help="one piece: used by this script itself")
    return parser.parse_args()


def piece(ours: str, peer: str, folder: Path, options: argparse.Namespace) -> list[str]:
    """One piece of work by us, by us on fewer queries, and by the peer; what differs between the last two."""
    few = min(options.peer_queries, options.queries)
    run(ours, options.queries, folder, options)
    if ours == "exact":
        (folder / "exact-ids.npy").rename(folder / "found.npy")
    if options.queries > few:
        run(ours, few, folder, options)
    elif ours == "exact":
        np.save(folder / "exact-ids.npy", np.load(folder / "found.npy", mmap_mode="r"))
    if peer == "relevance_ranx" and options.peers is None:
        print("| ranx is left out: name its folder with --peers | | | | | | |")
        return []
    return compared(ours, peer, folder, run(peer, few, folder, options))


def run(work: str, queries: int, folder: Path, options: argparse.Namespace) -> list[str]:
    """Do one piece as a child and print its row; the names of its figures."""
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("database", "dim", "depth")]
    peers = [f"--peers={options.peers}"] if options.peers else []
    command = [sys.executable, "-m", "benchmarks.evaluate", f"--queries={queries}", *flags, *peers, "--step", work, str(folder)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise SystemExit(f"{work} ended with {child.returncode}")
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    what = WHAT[work].format(depth=options.depth, database=options.database)
    times = f"{found['seconds']:.1f} | {found['cpu_seconds']:.1f} | {found['seconds'] / queries * 1000:.2f}"
    print(f"| {what} | {queries:,} | {times} | {found['peak']:,.0f} | {found['before']:,.0f} |", flush=True)
    return list(found["figures"])


def step(options: argparse.Namespace) -> dict[str, Any]:
    """One piece in this process. Libraries are imported, and ranx is compiled, before the clock starts."""
    work, folder = options.step[0], Path(options.step[1])
    if options.peers:
        sys.path.append(str(options.peers))
    WORK[work](folder, 10, options.depth)
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    figures = WORK[work](folder, options.queries, options.depth)
    seconds, cpu_seconds, peak = time.perf_counter() - start, time.process_time() - cpu, _peak()
    for name, values in figures.items():
        np.save(folder / f"{work}-{name}.npy", values)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "before": before, "peak": peak, "figures": list(figures)}


def compared(ours: str, peer: str, folder: Path, names: list[str]) -> list[str]:
    """Where the figures of the last runs of both differ, query by query; empty when nowhere."""
    problems = []
    for name in names:
        mine, theirs = (np.load(folder / f"{work}-{name}.npy", mmap_mode="r") for work in (ours, peer))
        mine = mine[: len(theirs)]
        if name == "ids":
            same = np.mean([len(np.intersect1d(one, other)) / len(one) for one, other in zip(mine, theirs, strict=True)])
            problems += [f"{peer}: {same:.6f} of the neighbours are the same"] if same < SAME else []
        elif (off := float(np.abs(mine - theirs).max())) > TOLERANCE:
            problems.append(f"{peer}: {name} differs by {off:.2g}")
    return problems


def _peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
