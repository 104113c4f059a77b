"""What `probe_margin` is worth: our index with and without it at equal recall, interleaved in one process, one thread.

Run: python -m benchmarks.index_pruning --data FOLDER [--images] [--items 100000] [--repeats 7]

For each number of re-ranked candidates, the smallest nprobe and the smallest margin are found that reach a recall@10 on 1,000 queries. All
are measured on 2,000 others, in CPU seconds; a line per target and kind shows the fastest in batches of 256. FOLDER is that of
`benchmarks.index`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.report import Report, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = {0.95: (40, 60, 80, 120), 0.99: (80, 120, 200, 300)}  # recall: numbers of candidates
BATCHES = {256: 1792, 16: 480, 1: 200}  # queries per turn
TUNING_QUERIES, QUERIES, K = 1000, 2000, 10
NPROBE_FACTOR, BISECTIONS = 1.5, 7


def main() -> None:
    """Build, find the parameters, measure, print."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the embeddings")
    parser.add_argument("--images", action="store_true", help="embeddings of images instead of sentences")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.index_pruning", *sys.argv[1:]], os.environ | {"OMP_NUM_THREADS": "1"})
    run = Report(arguments)
    from benchmarks.index import load_vectors
    from benchmarks.index_faiss import Ours
    from indexmill.tasks.indexing.auto_factory import propose_candidates
    from indexmill.tasks.metrics.exact_search import exact_search

    vectors = load_vectors(arguments.data, TUNING_QUERIES + QUERIES, arguments.items, images=arguments.images)
    queries, database = vectors[: TUNING_QUERIES + QUERIES], vectors[TUNING_QUERIES + QUERIES :]
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        peer = Ours(propose_candidates(*database.shape)[0], Path(folder))
        peer.build(database)
        exact = exact_search(queries, [(peer.ids, database)], K, peer.searcher.metric)[1]
        print(f"{peer.name}, {len(database)} x {database.shape[1]}")
        for target, counts in TARGETS.items():
            rows += compare(peer.searcher, queries, exact, target, counts, arguments.repeats)
    run.finish({"rows": rows}, plot)


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the CPU time of a query by target and batch size, with and without a margin."""
    from benchmarks.plotting import OTHERS, OURS, draw_bars, get_bars_height, split_panels

    rows = results["rows"]
    all_axes = split_panels(figure, len(BATCHES), height=get_bars_height(len(rows)), sharey=True)
    for axes, batch in zip(all_axes, BATCHES, strict=True):
        costs = {f"recall {row['target']}{', margin' if row['has_margin'] else ''}": row["microseconds"][str(batch)] for row in rows}
        draw_bars(axes, costs, unit="CPU µs per query", colors=[OURS if row["has_margin"] else OTHERS for row in rows], text="{:,.0f}")
        axes.set_title(f"batches of {batch}" if batch > 1 else "single queries")
        axes.locator_params(axis="x", nbins=3)


def compare(searcher: Any, queries: Any, exact: Any, target: float, counts: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Find parameters of both kinds for one target, measure them in turn, and print and return the fastest of each."""
    params = [found for count in counts for found in find_params(searcher, queries[:TUNING_QUERIES], exact[:TUNING_QUERIES], target, count)]
    times: dict[Any, dict[int, list[float]]] = {one: {batch: [] for batch in BATCHES} for one in params}
    for _ in range(repeats):
        for one in params:
            searcher.set_search_params(one)
            for batch, count in BATCHES.items():
                start = time.process_time()
                search(searcher, queries[TUNING_QUERIES : TUNING_QUERIES + count // batch * batch], batch)
                times[one][batch].append((time.process_time() - start) / (count // batch * batch))
    rows = []
    for has_margin in (False, True):
        kind = [one for one in params if (one.probe_margin is not None) == has_margin]
        if kind:
            best = min(kind, key=lambda one: statistics.median(times[one][256]))
            recall = measure_recall(searcher, best, queries[TUNING_QUERIES:], exact[TUNING_QUERIES:])
            costs = {batch: statistics.median(values) * 1e6 for batch, values in times[best].items()}
            print(
                f"{target} {recall:.4f} " + " ".join(f"{batch}: {cost:.1f} us" for batch, cost in costs.items()) + f"  {best}", flush=True
            )
            rows.append({"target": target, "has_margin": has_margin, "recall": recall, "microseconds": costs, "params": str(best)})
    return rows


def find_params(searcher: Any, queries: Any, exact: Any, target: float, candidates: int) -> list[Any]:
    """Find the smallest nprobe, and with more lists the smallest margin; fewer if the candidates do not suffice."""
    import numpy as np

    base = searcher.params.model_copy(update={"rerank_candidates": candidates, "probe_margin": None})

    def is_enough(**values: Any) -> bool:
        return measure_recall(searcher, base.model_copy(update=values), queries, exact) >= target

    low, high = 0.0, float(searcher.search_param_max // 2)
    if not is_enough(nprobe=int(high)):
        return []
    nprobe = round(bisect(lambda value: is_enough(nprobe=max(1, round(value))), low, high))
    wider = base.model_copy(update={"nprobe": min(round(NPROBE_FACTOR * nprobe), searcher.search_param_max)})
    searcher.set_search_params(wider)
    high = float(np.quantile(searcher.measure_probe_margins(queries), 0.95))
    margin = bisect(lambda value: is_enough(nprobe=wider.nprobe, probe_margin=value), 0.0, high)
    return [base.model_copy(update={"nprobe": nprobe}), wider.model_copy(update={"probe_margin": margin})]


def bisect(is_enough: Callable[[float], bool], low: float, high: float) -> float:
    """Return the smallest value found that is enough; `high` is."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def measure_recall(searcher: Any, params: Any, queries: Any, exact: Any) -> float:
    """Measure the mean recall@10 in batches of 256."""
    from indexmill.tasks.metrics.neighbors import ann_recall_at

    searcher.set_search_params(params)
    return float(ann_recall_at(search(searcher, queries, 256), exact, K).mean())


def search(searcher: Any, queries: Any, batch: int) -> Any:
    """Search in batches, and return the ids."""
    import numpy as np

    return np.concatenate([searcher.search(queries[start : start + batch], K)[1] for start in range(0, len(queries), batch)])


if __name__ == "__main__":
    main()
