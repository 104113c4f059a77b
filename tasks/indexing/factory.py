"""Create FAISS indexes from factory strings, on a GPU where FAISS has one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import InputError

FAISS_METRICS = {"cosine": faiss.METRIC_INNER_PRODUCT, "ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
# Lengths that embeddings have: a factory that none of them suits is wrong whatever the encoder.
COMMON_DIMS = (384, 512, 768, 1024, 1280, 576, 960, 2048, 96, 100)


def make_index(config: IndexConfig, dim: int) -> faiss.Index:
    """An empty index that takes our ids: `add_with_ids` is IVF's own, anything else is wrapped in IDMap2.

    (IDMap2 around an IVF would give wrong ids once merged.) Raises InputError when FAISS refuses the factory or `dim`.
    """
    try:
        index = faiss.index_factory(dim, config.factory, FAISS_METRICS[config.metric])
    except RuntimeError as problem:
        raise InputError(
            "FAISS refuses this factory",
            where=f"index.factory = {config.factory}",
            expected="a FAISS factory string such as Flat, IVF64,Flat or HNSW32, that takes vectors as long as the encoder's",
            got=f"{_strip_source_position(problem)} (tried with {dim} numbers a vector)",
            next_step="mend index.factory",
        ) from None
    if isinstance(index, faiss.IndexIDMap | faiss.IndexRefine | faiss.IndexBinary):
        raise InputError(
            "this factory wraps an index in a way that cannot be sharded",
            where=f"index.factory = {config.factory}",
            got=type(index).__name__,
            next_step="leave IDMap and Refine out: ids are added by Indexmill",
        )
    ivf = find_ivf(index)
    if ivf is None:
        return faiss.IndexIDMap2(index)
    ivf.cp.spherical = config.metric == "cosine"
    ivf.cp.seed = config.seed + 1  # FAISS takes 0 for a seed of its own
    return index


def check_factory(config: IndexConfig) -> None:
    """Refuse, before any work, a factory that FAISS takes for no common length of vector."""
    if config.factory == "auto":
        return
    problems = []
    for dim in COMMON_DIMS:
        try:
            make_index(config, dim)
            return
        except InputError as problem:
            problems.append(problem)
    raise problems[0]


@cache
def min_training_items(factory: str) -> int:
    """The fewest database items that the factory can be trained on: its lists, and 2^bits centroids for a product quantizer."""
    lists = [int(count) for count in re.findall(r"IVF(\d+)", factory)]
    bits = [int(width or 8) for width in re.findall(r"PQ\d+(?:x(\d+))?", factory)]
    return max([1, *lists, *(2**width for width in bits if width <= 16)])


def find_ivf(index: faiss.Index) -> faiss.IndexIVF | None:
    """The inverted lists inside an index, if it has any."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform) else index
    if isinstance(inner, faiss.IndexPreTransform):
        return find_ivf(inner)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def unwrap_id_map(index: faiss.Index) -> faiss.Index:
    """The index inside an IDMap; any other as it is."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index


def set_index_search_params(index: faiss.Index, nprobe: int | None, ef_search: int | None) -> None:
    """Set how much of an index a search looks at: nprobe lists (default an eighth, at least 8), ef_search candidates (default 64)."""
    ivf = find_ivf(index)
    if ivf is not None:
        ivf.nprobe = min(ivf.nlist, nprobe or max(8, ivf.nlist // 8))
        return
    inner = unwrap_id_map(index)
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = ef_search or 64


def _strip_source_position(problem: RuntimeError) -> str:
    """FAISS's message without its source position."""
    return re.sub(r"^Error in .*? at \S+: ", "", str(problem).strip(), flags=re.S)


def knn(queries: np.ndarray, vectors: np.ndarray, k: int, metric: int) -> tuple[np.ndarray, np.ndarray]:
    """Brute force: scores float32 (n, k) and rows of `vectors` int64 (n, k), best first; both float32, in C order."""
    if not faiss.get_num_gpus():
        scores, rows = faiss.knn(queries, vectors, k, metric=metric)
    else:
        scores, rows = faiss.knn_gpu(_gpu_resources(), queries, vectors, k, metric=metric)
    return scores, rows


@contextmanager
def gpu_clustering(index: Any) -> Iterator[None]:
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
def _gpu_resources() -> Any:
    return faiss.StandardGpuResources()
