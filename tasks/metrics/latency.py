"""Search latency, throughput and query-encoding latency. Wall-clock times differ from run to run.

Imports no numerical library but NumPy, so that the encoder process stays light.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

MAX_SECONDS = 10.0  # for all timed calls of one kind together: slow calls are repeated less often
WARM_UP_QUERIES = 10
MAX_BATCH_SIZE = 2048  # queries: enough to keep all threads busy
PERCENTILES = (50, 95, 99)
Query = TypeVar("Query")


class SupportsSearch(Protocol):
    """An index whose searches can be timed: a `Searcher`, or anything with its `search` method."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 (n, k) and item ids int64 (n, k)."""
        ...


def measure_search_speed(
    searcher: SupportsSearch, queries: np.ndarray, *, threads: int, k: int = 10, singles: int = 1000, repeats: int = 5
) -> dict[str, float]:
    """Measure the latency of single queries and the throughput of one batch, each after a warm-up.

    Args:
        searcher: the index.
        queries: float32 (n, dim).
        threads: the number of threads that a search may use; recorded, not set.
        k: the number of results per query.
        singles: the number of single queries, taken in order.
        repeats: the number of searches for one batch of at most MAX_BATCH_SIZE queries.

    Returns:
        `single_query_p50_ms` and so on, with interpolated percentiles (p99 rests on a hundredth of `single_queries`);
        `batch_queries_per_second`, the median of the repeats, with its `_min` and `_max`; and the counts behind them.
        Without queries, only `threads`. Each part stops after MAX_SECONDS.
    """
    thread_count = {"threads": float(threads)}
    if not len(queries):
        return thread_count
    for query in queries[:WARM_UP_QUERIES]:
        searcher.search(query[None], k)
    single_seconds = time_calls(lambda row: searcher.search(queries[row : row + 1], k), min(singles, len(queries)))
    batch = queries[:MAX_BATCH_SIZE]
    searcher.search(batch, k)
    rates = len(batch) / time_calls(lambda _: searcher.search(batch, k), repeats)
    return {
        **compute_percentiles("single_query", single_seconds),
        "single_queries": float(len(single_seconds)),
        "batch_queries_per_second": float(np.median(rates)),
        "batch_queries_per_second_min": float(rates.min()),
        "batch_queries_per_second_max": float(rates.max()),
        "batch_size": float(len(batch)),
        "batch_repeats": float(len(rates)),
        **thread_count,
    }


def measure_encode_latency(
    encode: Callable[[Sequence[Query]], np.ndarray], queries: Sequence[Query], singles: int = 50
) -> dict[str, float]:
    """Measure the milliseconds to encode one query, for comparison with the milliseconds to search for it.

    Args:
        encode: maps queries to vectors, including all preprocessing of its text or opened image. It is
            called with one query at a time: once untimed, then for the first `singles` queries, until MAX_SECONDS are
            over.
        queries: the queries.
        singles: the number of timed calls.

    Returns:
        `encode_query_p50_ms` and so on, and `encode_queries`, their number; nothing without queries.
    """
    if not len(queries):
        return {}
    encode(queries[:1])
    seconds = time_calls(lambda row: encode(queries[row : row + 1]), min(singles, len(queries)))
    return compute_percentiles("encode_query", seconds) | {"encode_queries": float(len(seconds))}


def compute_encode_fraction(timings: dict[str, float]) -> float | None:
    """Compute the fraction of encoding in a query's median time: encode p50 / (encode p50 + search p50).

    None if either is missing.
    """
    encode, search = timings.get("encode_query_p50_ms"), timings.get("single_query_p50_ms")
    return None if encode is None or search is None else encode / (encode + search)


def bytes_per_vector(sizes: Sequence[int], vectors: int) -> float:
    """Divide the bytes of the files that a search holds in memory by the number of vectors in them.

    NaN without vectors.
    """
    return sum(sizes) / vectors if vectors else float("nan")


def time_calls(call: Callable[[int], object], times: int) -> np.ndarray:
    """Return the seconds of call(0), call(1), …: at least one, and no further call after MAX_SECONDS."""
    seconds: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    for index in range(times):
        start = time.perf_counter()
        call(index)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return np.array(seconds)


def compute_percentiles(name: str, seconds: np.ndarray) -> dict[str, float]:
    """Compute `<name>_p50_ms`, `<name>_p95_ms` and `<name>_p99_ms`, interpolated, from float64 seconds (times,)."""
    return {f"{name}_p{percent}_ms": float(np.percentile(seconds, percent) * 1000) for percent in PERCENTILES}
