"""Our index and its peers on real embeddings of sentences or images, in one process, interleaved: recall@10, speed, memory, build.

Run: pip install --target PEERS --no-deps hnswlib usearch scann scalable-vs rabitqlib numkong archspec
     python -m benchmarks.index --data FOLDER --peers PEERS [--autofaiss PYTHON] [--images] [--items 100000]
         [--threads 1] [--repeats 5] [--out FOLDER]

Search parameters are tuned on 1,000 held-out queries until the lower bound of recall@10 meets the target, and measured on others. Speed is
measured in CPU seconds, which other load on the machine affects little, and in wall time.
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
TUNING_QUERIES = 1000


def main() -> None:
    """Build, tune, measure, print, plot."""
    arguments = parse_arguments()
    sys.path.append(str(arguments.peers))
    from benchmarks import index_measuring as measuring
    from benchmarks import index_report as report
    from benchmarks.index_plots import plot

    vectors = load_vectors(arguments.data, TUNING_QUERIES + arguments.queries, arguments.items, images=arguments.images)
    tuning, queries, database = (
        vectors[:TUNING_QUERIES],
        vectors[TUNING_QUERIES : TUNING_QUERIES + arguments.queries],
        vectors[TUNING_QUERIES + arguments.queries :],
    )
    print(f"{len(database)} vectors with {database.shape[1]} dimensions, {len(queries)} queries held out, {arguments.threads} threads")
    measuring.warm_up()
    with TemporaryDirectory() as folder:
        peers = make_peers(len(database), database.shape[1], arguments, Path(folder))
        runs = [run for peer in peers for run in measuring.prepare_runs(peer, database, tuning, TARGETS)]
        measuring.measure(runs, database, queries, arguments.repeats)
    rows = [run.row() for run in runs]
    print(report.format_table(rows), *report.check_targets(rows), sep="\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "index.json").write_text(json.dumps(rows, indent=1))
    plot(rows, arguments.out)


def load_vectors(folder: Path, queries: int, items: int, *, images: bool) -> Any:
    """Return float32 vectors of length 1: first those of the queries. Images are crops of the photographs in INDEXMILL_REAL_DATA."""
    from benchmarks import images as crops
    from benchmarks import sentences

    return crops.load_embeddings(folder, queries, items) if images else sentences.load_embeddings(folder, queries + items)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line. Restart the process if the thread count is not in its environment, where libraries read it when loaded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder for the embeddings")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder with the peers' packages")
    parser.add_argument("--autofaiss", help="Python of a virtual environment with autofaiss")
    parser.add_argument("--images", action="store_true", help="embeddings of images instead of sentences")
    parser.add_argument("--only", help="only peers whose names contain this, besides ours")
    parser.add_argument("--out", type=Path, default=Path("benchmark-index"))
    for flag, number in (("--items", 100_000), ("--queries", 2000), ("--threads", 1), ("--repeats", 5)):
        parser.add_argument(flag, type=int, default=number)
    arguments = parser.parse_args()
    thread_counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads))
    if any(os.environ.get(name) != value for name, value in thread_counts.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.index", *sys.argv[1:]], os.environ | thread_counts)
    return arguments


def make_peers(n: int, dim: int, arguments: argparse.Namespace, folder: Path) -> list[Any]:
    """Make our index and every peer that is installed."""
    from benchmarks import index_faiss as ours
    from benchmarks import index_peers
    from indexmill.tasks.indexing.auto_factory import propose_candidates

    threads = arguments.threads
    constructors: list[Callable[[], Any]] = [
        lambda peer=peer: peer(threads) for peer in (index_peers.Hnswlib, index_peers.Usearch, index_peers.Scann)
    ]
    constructors += [lambda peer=peer: peer(threads) for peer in (index_peers.Svs, index_peers.SymphonyQG, ours.BruteTorch)]
    constructors += [ours.IvfFlat, ours.BruteNumpy, ours.Product, ours.Flat]
    if arguments.autofaiss:
        constructors.append(lambda: ours.Autofaiss(arguments.autofaiss, threads))
    peers_made: list[Any] = [ours.Ours(candidate, folder) for candidate in propose_candidates(n, dim) if candidate.lists]
    for make in constructors:
        try:
            peers_made.append(make())
        except ImportError as missing:
            print(f"skipped: {missing}")
    names = arguments.only.split(",") if arguments.only else [""]
    return [peer for peer in peers_made if "ours" in peer.name or any(name in peer.name for name in names)]


if __name__ == "__main__":
    main()
