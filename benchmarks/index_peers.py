"""The libraries that `benchmarks/index.py` compares, each used as its own documentation recommends; ids are row numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Peer(Protocol):
    """An index over inner products. widths: values of its search parameter, ascending."""

    name: str
    widths: Sequence[int]

    def build(self, vectors: np.ndarray) -> None:
        """Build from float32 (n, dim)."""

    def set_search_params(self, width: int) -> None:
        """Set the search parameter."""

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return row numbers, int64 (n, k)."""


WIDTHS = tuple(sorted({round(10 * 1.12**step) for step in range(45)}))


class Hnswlib:
    """M = 32, as in FAISS's and autofaiss's HNSW32."""

    name, widths = "hnswlib M32", WIDTHS

    def __init__(self, threads: int) -> None:
        import hnswlib

        self.module, self.threads = hnswlib, threads

    def build(self, vectors: np.ndarray) -> None:
        """Build with efConstruction = 200, the default."""
        self.index = self.module.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=32, ef_construction=200)
        self.index.set_num_threads(self.threads)
        self.index.add_items(vectors)

    def set_search_params(self, width: int) -> None:
        """Set ef."""
        self.index.set_ef(width)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return labels, which are row numbers."""
        return self.index.knn_query(queries, k)[0].astype(np.int64)


class Usearch:
    """Half precision, as recommended."""

    name, widths = "usearch f16", WIDTHS

    def __init__(self, threads: int) -> None:
        from usearch import index

        self.module, self.threads = index, threads

    def build(self, vectors: np.ndarray) -> None:
        """Build with the default connectivity and expansion."""
        self.index = self.module.Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
        self.index.add(np.arange(len(vectors)), vectors, threads=self.threads)

    def set_search_params(self, width: int) -> None:
        """Set expansion_search."""
        self.index.expansion_search = width

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return keys, which are row numbers."""
        return np.asarray(self.index.search(queries, k, threads=self.threads).keys, np.int64).reshape(len(queries), k)


class Scann:
    """Two leaves per vector (SOAR), anisotropic codes over two dimensions, re-ranked with float32."""

    name, widths = "ScaNN SOAR", tuple(sorted({round(4 * 1.12**step) for step in range(45)}))
    depths = (30, 50, 80, 120)  # candidates re-ranked; tuned like ours

    def __init__(self, threads: int) -> None:
        from scann import scann_ops_pybind

        self.module, self.threads = scann_ops_pybind, threads

    def build(self, vectors: np.ndarray) -> None:
        """Build with 2 √n leaves."""
        builder = self.module.builder(vectors, 10, "dot_product").set_n_training_threads(self.threads)
        leaves = 2 * round(len(vectors) ** 0.5)
        tree = builder.tree(num_leaves=leaves, num_leaves_to_search=16, training_sample_size=len(vectors), soar_lambda=1.5)
        self.index = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def set_search_params(self, width: int) -> None:
        """Set the number of leaves to search."""
        self.leaves = width

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return row numbers. The call for a single query is faster than a batch of one."""
        options = {"final_num_neighbors": k, "pre_reorder_num_neighbors": self.rerank_depth, "leaves_to_search": self.leaves}
        if len(queries) == 1:
            return self.index.search(queries[0], **options)[0].astype(np.int64)[None]
        search = self.index.search_batched if self.threads == 1 else self.index.search_batched_parallel
        return search(queries, **options)[0].astype(np.int64)


class Svs:
    """Vamana with half precision."""

    name, widths = "SVS Vamana f16", WIDTHS

    def __init__(self, threads: int) -> None:
        import svs

        self.module, self.threads = svs, threads

    def build(self, vectors: np.ndarray) -> None:
        """Build with degree 32 and window 200."""
        settings = self.module.VamanaBuildParameters(graph_max_degree=32, window_size=200)
        self.index = self.module.Vamana.build(settings, vectors.astype(np.float16), self.module.DistanceType.MIP, self.threads)
        self.index.num_threads = self.threads

    def set_search_params(self, width: int) -> None:
        """Set the search window."""
        self.index.search_window_size = width

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return row numbers."""
        return self.index.search(queries, k)[0].astype(np.int64)


class SymphonyQG:
    """SymphonyQG with degree 32."""

    name, widths = "SymphonyQG R32", WIDTHS

    def __init__(self, threads: int) -> None:
        import rabitqlib

        self.module, self.threads = rabitqlib, threads

    def build(self, vectors: np.ndarray) -> None:
        """Build with efConstruction = 200."""
        self.index = self.module.SymqgIndex(vectors.shape[1], 32, metric="ip")
        self.index.build(vectors, 200, num_threads=self.threads)

    def set_search_params(self, width: int) -> None:
        """Set ef."""
        self.ef = width

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return row numbers."""
        results = self.index.search_batch(queries, k, self.ef, num_threads=self.threads)
        return np.asarray(next(part for part in results if np.asarray(part).dtype.kind in "iu"), np.int64).reshape(len(queries), k)
