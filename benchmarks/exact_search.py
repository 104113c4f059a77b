"""Exact search by depth, in CPU seconds of one thread: ours, and scikit-learn's brute force.

Run: OMP_NUM_THREADS=1 python -m benchmarks.exact_search [--depths 10 100 1000] [--queries 1000] [--items 40000] [--repeats 3]

Vectors are random and of length 1; both search the same blocks of memory, in turn, and must find the same neighbors.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.report import Report, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK = 8192  # database rows per block, as the embedding store yields them
MIN_COMMON = 0.9999  # share of neighbors; the others are ties within float32 rounding
OURS, PEER = "Indexmill", "scikit-learn"


def draw_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Draw float32 (count, dim), unit vectors."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def search_ours(queries: np.ndarray, database: np.ndarray, depth: int) -> np.ndarray:
    """Search block by block; returns rows, int64 (n, depth)."""
    import faiss

    from indexmill.tasks.metrics.exact_search import exact_search

    starts = range(0, len(database), BLOCK)
    blocks = ((np.arange(start, min(start + BLOCK, len(database))), database[start : start + BLOCK]) for start in starts)
    return exact_search(queries, blocks, depth, faiss.METRIC_INNER_PRODUCT)[1]


def search_sklearn(queries: np.ndarray, database: np.ndarray, depth: int) -> np.ndarray:
    """Search with brute force; for vectors of length 1 the nearest have the largest inner product."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=depth, algorithm="brute").fit(database).kneighbors(queries, return_distance=False)


SEARCHES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {OURS: search_ours, PEER: search_sklearn}


def measure_depth(queries: np.ndarray, database: np.ndarray, depth: int, repeats: int) -> dict[str, list[float]]:
    """Search with both in turn; returns CPU seconds per repeat. Exit if they find other neighbors."""
    seconds: dict[str, list[float]] = {name: [] for name in SEARCHES}
    for _ in range(repeats):
        found = []
        for name, search in SEARCHES.items():
            start = time.process_time()
            found.append(search(queries, database, depth))
            seconds[name].append(time.process_time() - start)
        common = np.mean([len(np.intersect1d(*rows)) / depth for rows in zip(*found, strict=True)])
        if common < MIN_COMMON:
            raise SystemExit(f"depth {depth}: only {common:.6f} of the neighbors are common")
    return seconds


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw milliseconds per query over the depth."""
    from benchmarks.plotting import OTHERS, draw_lines, split_panels
    from benchmarks.plotting import OURS as BLUE

    (axes,) = split_panels(figure, 1, height=3.6)
    rows, milliseconds = results["depths"], 1000 / results["queries"]
    depths = [row["depth"] for row in rows]
    series = {name: (depths, [statistics.median(row[name]) * milliseconds for row in rows]) for name in SEARCHES}
    axes.set(xscale="log", ylim=(0, 1.15 * max(max(ys) for _, ys in series.values())))
    draw_lines(axes, series, xlabel="neighbors per query", ylabel="CPU milliseconds per query", colors=(BLUE, OTHERS))
    axes.set_xticks(depths, [f"{depth:,}" for depth in depths])
    axes.minorticks_off()
    axes.set_title(f"{results['queries']:,} queries, {results['items']:,} vectors with {results['dim']} dimensions, one thread")


def main() -> None:
    """Print one line per depth."""
    parser = make_parser(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    for flag, default in (("--queries", 1000), ("--items", 40_000), ("--dim", 384), ("--repeats", 3)):
        parser.add_argument(flag, type=int, default=default)
    options = parser.parse_args()
    report, rows = Report(options), []
    queries, database = draw_vectors(options.queries, options.dim, 0), draw_vectors(options.items, options.dim, 1)
    for search in SEARCHES.values():
        search(queries[:10], database, min(options.depths))
    print(f"CPU seconds, medians of {options.repeats}\n{'depth':>6}{OURS:>12}{PEER:>14}{'ratio':>8}")
    with threadpool_limits(1):
        for depth in options.depths:
            seconds = measure_depth(queries, database, depth, options.repeats)
            ours, peer = (statistics.median(seconds[name]) for name in SEARCHES)
            print(f"{depth:6,}{ours:12.2f}{peer:14.2f}{peer / ours:8.2f}", flush=True)
            rows.append({"depth": depth, **seconds})
    report.finish({"queries": options.queries, "items": options.items, "dim": options.dim, "depths": rows}, plot)


if __name__ == "__main__":
    main()
