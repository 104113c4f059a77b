"""Measurements for `benchmarks/index.py`: build cost and memory, search parameters for each target, interleaved speed."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.tuning import lower_bound, tune_search
from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.neighbors import ann_recall_at

K = 10
BATCHES = (1, 16, 256)
QUERIES_PER_TURN = {1: 300, 16: 960, 256: 1792}  # by batch size


@dataclass
class Run:
    """A peer at one recall target. `cpu` and `wall`: seconds per query by batch size; `singles`: wall seconds of single queries."""

    peer: Any
    target: float
    width: Any
    met: bool
    built: dict[str, float]
    recall: float = 0.0
    cpu: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    wall: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    singles: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the medians over the turns."""
        speeds = {f"qps_cpu_{batch}": 1 / statistics.median(self.cpu[batch]) for batch in BATCHES}
        speeds |= {f"qps_wall_{batch}": 1 / statistics.median(self.wall[batch]) for batch in BATCHES}
        latency = {f"p{share}_ms": float(np.percentile(self.singles, share)) * 1000 for share in (50, 99)}
        columns = {"name": self.peer.name, "target": self.target, "met": self.met, "recall": self.recall, "setting": str(self.width)}
        return columns | speeds | latency | self.built


def prepare_runs(peer: Any, database: np.ndarray, queries: np.ndarray, targets: Sequence[float]) -> list[Run]:
    """Build the peer and find its search parameters for each target. A peer without parameters is one run."""
    build_stats = _measure_build(peer, database)
    exact = exact_search(queries, _split_blocks(database), K, faiss.METRIC_INNER_PRODUCT)[1]
    runs = []
    for target in targets if len(peer.widths) != 1 else targets[-1:]:
        started = time.process_time()
        width, met = _tune_ours(peer, queries, exact, target) if hasattr(peer, "searcher") else _bisect_width(peer, queries, exact, target)
        spent = {"tuning_cpu_s": time.process_time() - started}
        runs.append(Run(peer, target, width, met, build_stats | spent))
        print(
            f"  {peer.name}: recall {target} {'met' if met else 'missed'} with {width}, tuned in {spent['tuning_cpu_s']:.1f} s", flush=True
        )
    return runs


def warm_up() -> None:
    """Let libraries allocate the memory they never free, so that it is not counted as the first index's."""
    vectors = np.random.default_rng(0).standard_normal((9000, 64), dtype=np.float32)
    index = faiss.index_factory(64, "IVF16,PQ32x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    exact_search(vectors, [(np.arange(9000), vectors)], K, faiss.METRIC_INNER_PRODUCT)
    np.matmul(vectors, vectors.T).argpartition(3)


def measure(runs: list[Run], database: np.ndarray, queries: np.ndarray, repeats: int) -> None:
    """Measure recall, then the speed of every run in turn, `repeats` times."""
    exact = exact_search(queries, _split_blocks(database), K, faiss.METRIC_INNER_PRODUCT)[1]
    for run in runs:
        _apply_params(run)
        retrieved = np.concatenate([run.peer.search(queries[start_row : start_row + 256], K) for start_row in range(0, len(queries), 256)])
        run.recall = float(ann_recall_at(retrieved, _to_ids(run.peer, exact), K).mean())
    for _ in range(repeats):
        for run in runs:
            _apply_params(run)
            for batch in BATCHES:
                _measure_turn(run, queries, batch)


def _measure_build(peer: Any, database: np.ndarray) -> dict[str, float]:
    """Measure CPU and wall seconds (of children too), growth of anonymous memory per vector, and additional peak memory."""
    before = _measure_anonymous_memory()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident = _read_status("VmRSS")
    cpu, wall = sum(os.times()[:4]), time.perf_counter()
    peer.build(database)
    cpu, wall = sum(os.times()[:4]) - cpu, time.perf_counter() - wall
    peak = _read_status("VmHWM") - resident
    size = (_measure_anonymous_memory() - before) / len(database)
    print(f"{peer.name}: built in {cpu:.1f} CPU s, {size:.0f} bytes per vector", flush=True)
    return {"build_cpu_s": cpu, "build_wall_s": wall, "bytes": size, "peak_mib": peak / 2**20}


def _measure_anonymous_memory() -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _read_status("RssAnon")


def _read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _split_blocks(database: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.arange(start_row, min(start_row + 20_000, len(database))), database[start_row : start_row + 20_000])
        for start_row in range(0, len(database), 20_000)
    ]


def _to_ids(peer: Any, rows: np.ndarray) -> np.ndarray:
    """Convert row numbers to the ids that the peer returns."""
    return peer.ids[rows] if hasattr(peer, "ids") else rows


def _tune_ours(peer: Any, queries: np.ndarray, exact: np.ndarray, target: float) -> tuple[Any, bool]:
    tuned = tune_search(peer.searcher, queries, _to_ids(peer, exact), target)
    return tuned.chosen.params, tuned.met


def _bisect_width(peer: Any, queries: np.ndarray, exact: np.ndarray, target: float) -> tuple[Any, bool]:
    """Find the smallest width whose bound meets the target, or the widest; for a peer that re-ranks, the fastest over its `depths`."""
    trials = []
    for depth in getattr(peer, "depths", (None,)):
        peer.rerank_depth = depth
        low, high = -1, len(peer.widths) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _measure_recall(peer, peer.widths[middle], queries, exact)[0] >= target else (middle, high)
        bound, seconds = _measure_recall(peer, peer.widths[high], queries, exact)
        trials.append((bound < target, seconds if bound >= target else -bound, (peer.widths[high], depth)))
    missed, _, params = min(trials)
    return params, not missed


def _measure_recall(peer: Any, width: int, queries: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Return the lower bound of recall, and CPU seconds."""
    peer.set_search_params(width)
    start = time.process_time()
    retrieved = np.concatenate([peer.search(queries[start_row : start_row + 256], K) for start_row in range(0, len(queries), 256)])
    return lower_bound(ann_recall_at(retrieved, exact, K)), time.process_time() - start


def _apply_params(run: Run) -> None:
    if hasattr(run.peer, "searcher"):
        run.peer.searcher.set_search_params(run.width)
    else:
        width, run.peer.rerank_depth = run.width
        run.peer.set_search_params(width)


def _measure_turn(run: Run, queries: np.ndarray, batch: int) -> None:
    batches = min(QUERIES_PER_TURN[batch], len(queries)) // batch
    if run.peer.name.startswith(("brute", "ours exact", "sgemm")):
        batches = min(batches, max(2, 20 // batch))
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(batches):
        start = time.perf_counter()
        run.peer.search(queries[number * batch : (number + 1) * batch], K)
        if batch == 1:
            run.singles.append(time.perf_counter() - start)
    run.cpu[batch].append((time.process_time() - cpu) / (batches * batch))
    run.wall[batch].append((time.perf_counter() - wall) / (batches * batch))
