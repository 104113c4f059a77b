"""What the speed figures are made of; their size is the machine's affair."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import pytest

from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.latency import compute_encode_fraction, measure_encode_latency
from indexmill.tasks.metrics.search_speed import bytes_per_vector, measure_search_speed


@pytest.fixture
def searcher() -> Searcher:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    index.add_with_ids(np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32), np.arange(50))
    return Searcher([index], "cosine")


def test_search_speed_says_what_it_rests_on(searcher: Searcher) -> None:
    """Percentiles rise, the least rate is at most the median and that at most the largest; threads are FAISS's."""
    figures = measure_search_speed(searcher, np.ones((30, 4), np.float32), singles=20, repeats=3)
    assert 0 < figures["single_query_p50_ms"] <= figures["single_query_p95_ms"] <= figures["single_query_p99_ms"]
    least, median, most = (figures[f"batch_queries_per_second{which}"] for which in ("_min", "", "_max"))
    assert 0 < least <= median <= most
    assert (figures["single_queries"], figures["batch_size"], figures["batch_repeats"]) == (20, 30, 3)
    assert figures["threads"] == faiss.omp_get_max_threads()


def test_without_queries_only_the_threads_are_known(searcher: Searcher) -> None:
    """No division by nothing."""
    assert measure_search_speed(searcher, np.empty((0, 4), np.float32)) == {"threads": float(faiss.omp_get_max_threads())}
    assert measure_encode_latency(lambda queries: np.ones((len(queries), 4)), []) == {}


def test_queries_are_encoded_one_at_a_time_after_a_warm_up() -> None:
    """Query 0 twice, then each that was asked for."""
    seen: list[list[str]] = []

    def encode(queries: Sequence[str]) -> np.ndarray:
        seen.append(list(queries))
        return np.ones((len(queries), 4))

    figures = measure_encode_latency(encode, ["a", "b", "c"], singles=2)
    assert seen == [["a"], ["a"], ["b"]]
    assert figures["encode_queries"] == 2
    assert figures["encode_query_p50_ms"] > 0


def test_a_slow_part_is_cut_short(monkeypatch: pytest.MonkeyPatch, searcher: Searcher) -> None:
    """With no time at all each is done once."""
    monkeypatch.setattr("indexmill.tasks.metrics.latency.MAX_SECONDS", 0)
    figures = measure_search_speed(searcher, np.ones((30, 4), np.float32))
    assert (figures["single_queries"], figures["batch_repeats"]) == (1, 1)


def test_encoding_beside_search() -> None:
    """3 ms of 4; unknown where one was not measured. 300 bytes of files for 4 vectors."""
    assert compute_encode_fraction({"encode_query_p50_ms": 3, "single_query_p50_ms": 1}) == 0.75
    assert compute_encode_fraction({"single_query_p50_ms": 1}) is None
    assert bytes_per_vector([100, 200], 4) == 75
    assert np.isnan(bytes_per_vector([], 0))
