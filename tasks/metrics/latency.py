"""Latency of repeated calls and of query encoding. Imports no numerical library but NumPy, so that the encoder process stays light."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

MAX_SECONDS = 10.0  # for all times together: what is slow is done fewer times
Query = TypeVar("Query")


def measure_encode_latency(
    encode: Callable[[Sequence[Query]], np.ndarray], queries: Sequence[Query], singles: int = 50
) -> dict[str, float]:
    """Milliseconds to encode one query (p50, p95, p99), to stand beside the milliseconds to search for it.

    encode: queries in, vectors out, with all that a query needs from its text or opened image on. It is called with one query at a time,
    once without timing, then for the first `singles`; it stops after SECONDS. Its threads are the encoder's to state.
    """
    if not len(queries):
        return {}
    encode(queries[:1])
    seconds = time_calls(lambda at: encode(queries[at : at + 1]), min(singles, len(queries)))
    return compute_percentiles("encode_query", seconds) | {"encode_queries": float(len(seconds))}


def compute_encode_fraction(timings: dict[str, float]) -> float | None:
    """The share of encoding in a query's median time: encode p50 / (encode p50 + search p50); None where either was not measured."""
    encode, search = timings.get("encode_query_p50_ms"), timings.get("single_query_p50_ms")
    return None if encode is None or search is None else encode / (encode + search)


def time_calls(work: Callable[[int], object], times: int) -> np.ndarray:
    """Seconds of each call work(0), work(1), …: at least one, and no further one after SECONDS."""
    seconds: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    for at in range(times):
        start = time.perf_counter()
        work(at)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return np.array(seconds)


def compute_percentiles(name: str, seconds: np.ndarray) -> dict[str, float]:
    """`name_p50_ms` and so on, interpolated. seconds: float64 (times,)."""
    return {f"{name}_p{at}_ms": float(np.percentile(seconds, at) * 1000) for at in (50, 95, 99)}
