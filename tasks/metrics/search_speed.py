"""Search latency and throughput of an index. Wall-clock times differ from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import faiss
import numpy as np

from indexmill.tasks.metrics.latency import compute_percentiles, time_calls

WARM_UP_QUERIES = 10
MAX_BATCH_SIZE = 2048  # queries at most: enough to keep all threads busy


class SupportsSearch(Protocol):
    """What can be timed: a `Searcher`, or whatever answers as one."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 (n, k) and item ids int64 (n, k)."""
        ...


def measure_search_speed(
    searcher: SupportsSearch, queries: np.ndarray, k: int = 10, singles: int = 1000, repeats: int = 5
) -> dict[str, float]:
    """Milliseconds of single queries (p50, p95, p99) and queries a second in one batch of BATCH at most, with the threads in use.

    Before either is timed, it is done without timing. Single: the first `singles` queries, in turn. Batch: the median of `repeats`
    searches, and the slowest and fastest. Each part stops after SECONDS. Percentiles are interpolated; p99 rests on a hundredth of the
    `single_queries`.
    """
    threads = {"threads": float(faiss.omp_get_max_threads())}
    if not len(queries):
        return threads
    for query in queries[:WARM_UP_QUERIES]:
        searcher.search(query[None], k)
    single = time_calls(lambda at: searcher.search(queries[at : at + 1], k), min(singles, len(queries)))
    queries = queries[:MAX_BATCH_SIZE]
    searcher.search(queries, k)
    rates = len(queries) / time_calls(lambda _: searcher.search(queries, k), repeats)
    batch = {"batch_queries_per_second": float(np.median(rates)), "batch_queries_per_second_min": float(rates.min())}
    batch |= {"batch_queries_per_second_max": float(rates.max()), "batch_size": float(len(queries)), "batch_repeats": float(len(rates))}
    return compute_percentiles("single_query", single) | {"single_queries": float(len(single))} | batch | threads


def bytes_per_vector(sizes: Sequence[int], vectors: int) -> float:
    """(bytes of the files that a search holds) / (vectors in them); NaN for none. What a file size counts, a loaded index holds."""
    return sum(sizes) / vectors if vectors else float("nan")
