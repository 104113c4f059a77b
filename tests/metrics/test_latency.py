"""The counts and statistics of latency and throughput; their size depends on the machine."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import pytest

from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.latency import bytes_per_vector, compute_encode_fraction, measure_encode_latency, measure_search_speed


@pytest.fixture
def searcher() -> Searcher:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    index.add_with_ids(np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32), np.arange(50))
    return Searcher([index], "cosine")


def test_search_speed_reports_its_counts(searcher: Searcher) -> None:
    """Percentiles rise; the minimum rate is at most the median, which is at most the maximum."""
    timings = measure_search_speed(searcher, np.ones((30, 4), np.float32), threads=2, singles=20, repeats=3)
    assert 0 < timings["single_query_p50_ms"] <= timings["single_query_p95_ms"] <= timings["single_query_p99_ms"]
    slowest, median, fastest = (timings[f"batch_queries_per_second{suffix}"] for suffix in ("_min", "", "_max"))
    assert 0 < slowest <= median <= fastest
    assert (timings["single_queries"], timings["batch_size"], timings["batch_repeats"]) == (20, 30, 3)
    assert timings["threads"] == 2


def test_without_queries_only_the_threads_are_reported(searcher: Searcher) -> None:
    """Nothing is divided by zero."""
    assert measure_search_speed(searcher, np.empty((0, 4), np.float32), threads=3) == {"threads": 3.0}
    assert measure_encode_latency(lambda queries: np.ones((len(queries), 4)), []) == {}


def test_queries_are_encoded_one_at_a_time_after_a_warm_up() -> None:
    """Query 0 twice, then the others."""
    calls: list[list[str]] = []

    def encode(queries: Sequence[str]) -> np.ndarray:
        calls.append(list(queries))
        return np.ones((len(queries), 4))

    timings = measure_encode_latency(encode, ["a", "b", "c"], singles=2)
    assert calls == [["a"], ["a"], ["b"]]
    assert timings["encode_queries"] == 2
    assert timings["encode_query_p50_ms"] > 0


def test_slow_measurements_stop_at_the_time_limit(monkeypatch: pytest.MonkeyPatch, searcher: Searcher) -> None:
    """With a limit of 0 seconds each call is made once."""
    monkeypatch.setattr("indexmill.tasks.metrics.latency.MAX_SECONDS", 0)
    timings = measure_search_speed(searcher, np.ones((30, 4), np.float32), threads=1)
    assert (timings["single_queries"], timings["batch_repeats"]) == (1, 1)


def test_encode_fraction_and_bytes_per_vector() -> None:
    """3 ms of 4 ms; None if one is missing. 300 bytes of files for 4 vectors."""
    assert compute_encode_fraction({"encode_query_p50_ms": 3, "single_query_p50_ms": 1}) == 0.75
    assert compute_encode_fraction({"single_query_p50_ms": 1}) is None
    assert bytes_per_vector([100, 200], 4) == 75
    assert np.isnan(bytes_per_vector([], 0))
