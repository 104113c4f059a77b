"""How fast an index answers, beside how long its queries take to encode. Wall-clock figures: they differ from run to run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import faiss
import numpy as np

WARM_UP = 10
SECONDS = 10.0  # for the single queries, and for the batches: a slow index is asked fewer
Query = TypeVar("Query")


class Searching(Protocol):
    """What can be timed: a `Searcher`, or whatever answers as one."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 (n, k) and item ids int64 (n, k)."""
        ...


def search_speed(searcher: Searching, queries: np.ndarray, k: int = 10, singles: int = 1000, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of single queries (p50, p95, p99) and queries a second in one batch of all, with the threads in use.

    Before either is timed, it is done without timing. Single: the first `singles` queries, in turn. Batch: the median of `repeats`
    searches, and the slowest and fastest. Each part stops after SECONDS. Percentiles are interpolated; p99 rests on a hundredth of the
    `single_queries`.
    """
    threads = {"threads": float(faiss.omp_get_max_threads())}
    if not len(queries):
        return threads
    for query in queries[:WARM_UP]:
        searcher.search(query[None], k)
    single = _timed(lambda at: searcher.search(queries[at : at + 1], k), min(singles, len(queries)))
    searcher.search(queries, k)
    rates = len(queries) / _timed(lambda _: searcher.search(queries, k), repeats)
    batch = {"batch_queries_per_second": float(np.median(rates)), "batch_queries_per_second_least": float(rates.min())}
    batch |= {"batch_queries_per_second_most": float(rates.max()), "batch_size": float(len(queries)), "batch_repeats": float(len(rates))}
    return _percentiles("single_query", single) | {"single_queries": float(len(single))} | batch | threads


def encode_speed(encode: Callable[[Sequence[Query]], np.ndarray], queries: Sequence[Query], singles: int = 50) -> dict[str, float]:
    """Milliseconds to encode one query (p50, p95, p99), to stand beside the milliseconds to search for it.

    encode: queries in, vectors out, with all that a query needs from its text or opened image on. It is called with one query at a time,
    once without timing, then for the first `singles`; it stops after SECONDS. Its threads are the encoder's to state.
    """
    if not len(queries):
        return {}
    encode(queries[:1])
    seconds = _timed(lambda at: encode(queries[at : at + 1]), min(singles, len(queries)))
    return _percentiles("encode_query", seconds) | {"encode_queries": float(len(seconds))}


def encode_share(timings: dict[str, float]) -> float | None:
    """The share of encoding in a query's median time: encode p50 / (encode p50 + search p50); None where either was not measured."""
    encode, search = timings.get("encode_query_p50_ms"), timings.get("single_query_p50_ms")
    return None if encode is None or search is None else encode / (encode + search)


def bytes_a_vector(sizes: Sequence[int], vectors: int) -> float:
    """(bytes of the files that a search holds) / (vectors in them); NaN for none. What a file size counts, a loaded index holds."""
    return sum(sizes) / vectors if vectors else float("nan")


def _timed(work: Callable[[int], object], times: int) -> np.ndarray:
    """Seconds of each call work(0), work(1), …: at least one, and no further one after SECONDS."""
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    for at in range(times):
        start = time.perf_counter()
        work(at)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return np.array(seconds)


def _percentiles(name: str, seconds: np.ndarray) -> dict[str, float]:
    return {f"{name}_p{at}_ms": float(np.percentile(seconds, at) * 1000) for at in (50, 95, 99)}
