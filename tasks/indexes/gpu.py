"""What a GPU does where FAISS has one: exact search, and the k-means of training. Elsewhere FAISS does the same on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import faiss
import numpy as np


def knn(queries: np.ndarray, vectors: np.ndarray, k: int, metric: int) -> tuple[np.ndarray, np.ndarray]:
    """Brute force: scores float32 (n, k) and rows of `vectors` int64 (n, k), best first; both float32, in C order."""
    if not faiss.get_num_gpus():
        scores, rows = faiss.knn(queries, vectors, k, metric=metric)
    else:
        scores, rows = faiss.knn_gpu(_resources(), queries, vectors, k, metric=metric)
    return scores, rows


@contextmanager
def clustering(index: Any) -> Iterator[None]:
    """While the block runs, the lists of this index with inverted lists (None: nothing to do) are learnt on all GPUs."""
    if index is None or not faiss.get_num_gpus():
        yield
        return
    index.clustering_index = held = faiss.index_cpu_to_all_gpus(faiss.IndexFlat(index.d, index.metric_type))
    try:
        yield
    finally:
        index.clustering_index = None
        del held


@cache
def _resources() -> Any:
    return faiss.StandardGpuResources()
