"""Our index and its peers on real sentence embeddings, in one process, interleaved: recall@10, speed, memory, build.

Run: pip install --target PEERS --no-deps hnswlib usearch scann scalable-vs rabitqlib numkong archspec
     python -m benchmarks.index --data FOLDER --peers PEERS [--autofaiss PYTHON] [--items 100000] [--threads 1] [--repeats 5] [--out FOLDER]

Settings are tuned on 1,000 held-out queries until the lower bound of recall@10 meets the target, and measured on others. Speed is told by
CPU seconds, which other work on the machine disturbs little, and by wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TARGETS = (0.95, 0.99)
TUNING = 1000


def main() -> None:
    """Build, tune, measure, print, plot."""
    arguments = parsed()
    sys.path.append(str(arguments.peers))
    from benchmarks import index_measuring as measuring
    from benchmarks import index_report as report
    from benchmarks.index_plots import plot
    from benchmarks.sentences import embeddings

    vectors = embeddings(arguments.data, arguments.items + arguments.queries + TUNING)
    tuning, asked, database = vectors[:TUNING], vectors[TUNING : TUNING + arguments.queries], vectors[TUNING + arguments.queries :]
    print(f"{len(database)} vectors of {database.shape[1]} numbers, {len(asked)} queries held out, {arguments.threads} threads")
    measuring.warm_up()
    with TemporaryDirectory() as folder:
        chosen = made(len(database), database.shape[1], arguments, Path(folder))
        runs = [run for one in chosen for run in measuring.prepared(one, database, tuning, TARGETS)]
        measuring.measure(runs, database, asked, arguments.repeats)
    rows = [run.row() for run in runs]
    print(report.table(rows), *report.verdicts(rows), sep="\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "index.json").write_text(json.dumps(rows, indent=1))
    plot(rows, arguments.out)


def parsed() -> argparse.Namespace:
    """The command line; the process starts anew where the thread count is not in its environment, which libraries read when loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in which the embeddings are kept")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder with the peers' packages")
    parser.add_argument("--autofaiss", help="python of a virtual environment with autofaiss")
    parser.add_argument("--only", help="peers whose names hold this, besides ours")
    parser.add_argument("--out", type=Path, default=Path("benchmark-index"))
    for flag, number in (("--items", 100_000), ("--queries", 2000), ("--threads", 1), ("--repeats", 5)):
        parser.add_argument(flag, type=int, default=number)
    arguments = parser.parse_args()
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads))
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.index", *sys.argv[1:]], os.environ | wanted)
    return arguments


def made(n: int, dim: int, arguments: argparse.Namespace, folder: Path) -> list[Any]:
    """Ours and every peer that is installed."""
    from benchmarks import index_faiss as ours
    from benchmarks import index_peers as peers
    from indexmill.tasks.indexing.auto_factory import propose_candidates

    threads = arguments.threads
    wanted: list[Callable[[], Any]] = [lambda one=one: one(threads) for one in (peers.Hnswlib, peers.Usearch, peers.Scann)]
    wanted += [lambda one=one: one(threads) for one in (peers.Svs, peers.SymphonyQG, ours.BruteTorch)]
    wanted += [ours.IvfFlat, ours.BruteNumpy, ours.Product, ours.Flat]
    if arguments.autofaiss:
        wanted.append(lambda: ours.Autofaiss(arguments.autofaiss, threads))
    found: list[Any] = [ours.Ours(candidate, folder) for candidate in propose_candidates(n, dim) if candidate.lists]
    for make in wanted:
        try:
            found.append(make())
        except ImportError as missing:
            print(f"left out: {missing}")
    return [one for one in found if not arguments.only or "ours" in one.name or any(part in one.name for part in arguments.only.split(","))]


if __name__ == "__main__":
    main()
