"""Measuring for `benchmarks/index.py`: build cost and memory, a setting for each target, speed in turns."""

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
ASKED = {1: 300, 16: 960, 256: 1792}  # queries a turn


@dataclass
class Run:
    """A peer at one target. Turns fill `cpu` and `wall`: seconds a query by batch size; `singles`: wall seconds of single queries."""

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
        """Medians over the turns."""
        speeds = {f"qps_cpu_{batch}": 1 / statistics.median(self.cpu[batch]) for batch in BATCHES}
        speeds |= {f"qps_wall_{batch}": 1 / statistics.median(self.wall[batch]) for batch in BATCHES}
        latency = {f"p{share}_ms": float(np.percentile(self.singles, share)) * 1000 for share in (50, 99)}
        told = {"name": self.peer.name, "target": self.target, "met": self.met, "recall": self.recall, "setting": str(self.width)}
        return told | speeds | latency | self.built


def prepared(peer: Any, database: np.ndarray, queries: np.ndarray, targets: Sequence[float]) -> list[Run]:
    """Build the peer and find its setting for each target; what meets none is one run, as wide as it goes."""
    built = _built(peer, database)
    exact = exact_search(queries, _blocks(database), K, faiss.METRIC_INNER_PRODUCT)[1]
    runs = []
    for target in targets if len(peer.widths) != 1 else targets[-1:]:
        started = time.process_time()
        width, met = _ours(peer, queries, exact, target) if hasattr(peer, "searcher") else _bisected(peer, queries, exact, target)
        spent = {"tuning_cpu_s": time.process_time() - started}
        runs.append(Run(peer, target, width, met, built | spent))
        print(
            f"  {peer.name}: recall {target} {'met' if met else 'missed'} with {width}, tuned in {spent['tuning_cpu_s']:.1f} s", flush=True
        )
    return runs


def warm_up() -> None:
    """Let libraries allocate what they keep for good, so that it is not counted as the first index's."""
    vectors = np.random.default_rng(0).standard_normal((9000, 64), dtype=np.float32)
    index = faiss.index_factory(64, "IVF16,PQ32x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    exact_search(vectors, [(np.arange(9000), vectors)], K, faiss.METRIC_INNER_PRODUCT)
    np.matmul(vectors, vectors.T).argpartition(3)


def measure(runs: list[Run], database: np.ndarray, queries: np.ndarray, repeats: int) -> None:
    """Recall, then every run in turn, `repeats` times over."""
    exact = exact_search(queries, _blocks(database), K, faiss.METRIC_INNER_PRODUCT)[1]
    for run in runs:
        _set(run)
        found = np.concatenate([run.peer.search(queries[at : at + 256], K) for at in range(0, len(queries), 256)])
        run.recall = float(ann_recall_at(found, _named(run.peer, exact), K).mean())
    for _ in range(repeats):
        for run in runs:
            _set(run)
            for batch in BATCHES:
                _turn(run, queries, batch)


def _built(peer: Any, database: np.ndarray) -> dict[str, float]:
    """CPU and wall seconds (of children too), growth of anonymous memory a vector, peak memory above what was there."""
    before = _anonymous()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    resident = _status("VmRSS")
    cpu, wall = sum(os.times()[:4]), time.perf_counter()
    peer.build(database)
    cpu, wall = sum(os.times()[:4]) - cpu, time.perf_counter() - wall
    peak = _status("VmHWM") - resident
    size = (_anonymous() - before) / len(database)
    print(f"{peer.name}: built in {cpu:.1f} CPU s, {size:.0f} bytes a vector", flush=True)
    return {"build_cpu_s": cpu, "build_wall_s": wall, "bytes": size, "peak_mib": peak / 2**20}


def _anonymous() -> int:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("RssAnon")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _blocks(database: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.arange(at, min(at + 20_000, len(database))), database[at : at + 20_000]) for at in range(0, len(database), 20_000)]


def _named(peer: Any, rows: np.ndarray) -> np.ndarray:
    """Row numbers as the ids that the peer gives."""
    return peer.ids[rows] if hasattr(peer, "ids") else rows


def _ours(peer: Any, queries: np.ndarray, exact: np.ndarray, target: float) -> tuple[Any, bool]:
    tuned = tune_search(peer.searcher, queries, _named(peer, exact), target)
    return tuned.chosen.params, tuned.met


def _bisected(peer: Any, queries: np.ndarray, exact: np.ndarray, target: float) -> tuple[Any, bool]:
    """The least width whose bound meets the target, or the widest; where a peer re-orders, the quickest such over its `depths`."""
    found = []
    for depth in getattr(peer, "depths", (None,)):
        peer.again = depth
        low, high = -1, len(peer.widths) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _tried(peer, peer.widths[middle], queries, exact)[0] >= target else (middle, high)
        bound, seconds = _tried(peer, peer.widths[high], queries, exact)
        found.append((bound < target, seconds if bound >= target else -bound, (peer.widths[high], depth)))
    missed, _, params = min(found)
    return params, not missed


def _tried(peer: Any, width: int, queries: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """The lower bound of recall, and CPU seconds."""
    peer.set_search_params(width)
    start = time.process_time()
    found = np.concatenate([peer.search(queries[at : at + 256], K) for at in range(0, len(queries), 256)])
    return lower_bound(ann_recall_at(found, exact, K)), time.process_time() - start


def _set(run: Run) -> None:
    if hasattr(run.peer, "searcher"):
        run.peer.searcher.set_search_params(run.width)
    else:
        width, run.peer.again = run.width
        run.peer.set_search_params(width)


def _turn(run: Run, queries: np.ndarray, batch: int) -> None:
    asked = min(ASKED[batch], len(queries)) // batch
    if run.peer.name.startswith(("brute", "ours exact", "sgemm")):
        asked = min(asked, max(2, 20 // batch))
    wall, cpu = time.perf_counter(), time.process_time()
    for at in range(asked):
        start = time.perf_counter()
        run.peer.search(queries[at * batch : (at + 1) * batch], K)
        if batch == 1:
            run.singles.append(time.perf_counter() - start)
    run.cpu[batch].append((time.process_time() - cpu) / (asked * batch))
    run.wall[batch].append((time.perf_counter() - wall) / (asked * batch))
