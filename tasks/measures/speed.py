"""How fast an index answers. Wall-clock figures: they differ from run to run and stay out of `metrics`."""

from __future__ import annotations

import time

import faiss
import numpy as np

from tasks.indexes.searcher import Searcher


def search_speed(searcher: Searcher, queries: np.ndarray, k: int = 10, singles: int = 200) -> dict[str, float]:
    """Milliseconds of single queries (p50, p95, after 10 to warm up) and queries a second in one batch, with the threads in use."""
    if not len(queries):
        return {"threads": float(faiss.omp_get_max_threads())}
    for query in queries[:10]:
        searcher.search(query[None], k)
    seconds = []
    for query in queries[:singles]:
        start = time.perf_counter()
        searcher.search(query[None], k)
        seconds.append(time.perf_counter() - start)
    searcher.search(queries, k)
    start = time.perf_counter()
    searcher.search(queries, k)
    batch = time.perf_counter() - start
    return {
        "single_query_p50_ms": float(np.percentile(seconds, 50) * 1000),
        "single_query_p95_ms": float(np.percentile(seconds, 95) * 1000),
        "batch_queries_per_second": len(queries) / batch,
        "threads": float(faiss.omp_get_max_threads()),
    }
