"""Indexes that `benchmarks/index.py` compares: ours, the FAISS tutorial's, autofaiss's, and brute force."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from benchmarks.index_peers import WIDTHS
from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.auto_factory import IndexCandidate
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.soar import fill_index, train_soar
from indexmill.tasks.metrics.exact_search import exact_search


class Ours:
    """A candidate of `auto`, over realistic item ids, with its vectors in a memory-mapped file."""

    widths: Sequence[int] = ()

    def __init__(self, candidate: IndexCandidate, folder: Path) -> None:
        self.candidate, self.folder = candidate, folder
        self.name = f"ours {candidate.factory}{' spill' if candidate.spill else ''}"

    def build(self, vectors: np.ndarray) -> None:
        """Train on 64 vectors per list, fill, write index and vectors, and open both from their files."""
        candidate = self.candidate
        random = np.random.default_rng(0)
        ids = np.sort(random.choice(2**62, len(vectors), replace=False))
        sample = vectors[random.permutation(len(vectors))[: 64 * candidate.lists]]
        trained = train_soar(sample, candidate.lists, candidate.subquantizers, "cosine", pca_dims=candidate.pca_dims)
        path = self.folder / f"{candidate.factory}{candidate.spill}.npy"
        faiss.write_index(fill_index(trained, [(ids, vectors)], spill=candidate.spill), str(path.with_suffix(".faiss")))
        np.save(path, vectors)
        self.ids = ids
        mapped = make_store(ids, np.load(path, mmap_mode="r"), "cosine")
        index = faiss.read_index(str(path.with_suffix(".faiss")))
        self.searcher = Searcher([index], "cosine", SearchParams(spill=candidate.spill), stores=[mapped])

    def set_search_params(self, width: int) -> None:
        """Do nothing: `tune` sets the parameters."""

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return item ids."""
        return self.searcher.search(queries, k)[1]


class IvfFlat:
    """IndexIVFFlat as in tutorials: 4 √n lists, trained on all vectors, nothing else set."""

    name, widths = "IVFFlat (tutorial)", tuple(sorted({round(1.15**step) for step in range(46)}))

    def build(self, vectors: np.ndarray) -> None:
        """Train and add."""
        quantizer = faiss.IndexFlatIP(vectors.shape[1])
        self.index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], 4 * round(len(vectors) ** 0.5), faiss.METRIC_INNER_PRODUCT)
        self.index.train(vectors)
        self.index.add(vectors)

    def set_search_params(self, width: int) -> None:
        """Set nprobe."""
        self.index.nprobe = min(width, self.index.nlist)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Search with FAISS's own BLAS threshold."""
        threshold, faiss.cvar.distance_compute_blas_threshold = faiss.cvar.distance_compute_blas_threshold, 128_000
        try:
            return self.index.search(queries, k)[1]
        finally:
            faiss.cvar.distance_compute_blas_threshold = threshold


class Autofaiss:
    """The index autofaiss chooses, built in a virtual environment of its own and searched here."""

    name, widths = "autofaiss", WIDTHS

    def __init__(self, python: str, threads: int) -> None:
        self.python, self.threads = python, threads

    def build(self, vectors: np.ndarray) -> None:
        """Build in a child process, whose CPU time is counted."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "in").mkdir()
            np.save(Path(folder) / "in" / "part.npy", vectors)
            call = (
                f"from autofaiss import build_index; build_index('{folder}/in', index_path='{folder}/i', index_infos_path='{folder}/j', "
                f"metric_type='ip', nb_cores={self.threads}, current_memory_available='8G', max_index_memory_usage='1G', "
                f"max_index_query_time_ms=1000, min_nearest_neighbors_to_retrieve=10, verbose=50)"
            )
            subprocess.run([self.python, "-W", "ignore", "-c", call], check=True, capture_output=True)
            self.index = faiss.read_index(f"{folder}/i")
        self.name = f"autofaiss {type(faiss.downcast_index(self.index)).__name__}"

    def set_search_params(self, width: int) -> None:
        """Set efSearch or nprobe, whichever the index has."""
        faiss.ParameterSpace().set_index_parameter(self.index, "nprobe" if "IVF" in self.name else "efSearch", width)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return row numbers."""
        return self.index.search(queries, k)[1]


class BruteNumpy:
    """A matrix product and argpartition."""

    name, widths = "brute NumPy", (1,)

    def build(self, vectors: np.ndarray) -> None:
        """Keep the vectors."""
        self.vectors = vectors

    def set_search_params(self, width: int) -> None:
        """Do nothing."""

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the rows of the k best, in order."""
        scores = queries @ self.vectors.T
        rows = np.argpartition(-scores, k, axis=1)[:, :k]
        return np.take_along_axis(rows, np.argsort(-np.take_along_axis(scores, rows, 1), axis=1), 1)


class BruteTorch(BruteNumpy):
    """A matrix product and topk."""

    name = "brute torch"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the rows of the k best, in order."""
        scores = self.torch.from_numpy(queries) @ self.torch.from_numpy(self.vectors).T
        return scores.topk(k, dim=1).indices.numpy()


class Product(BruteNumpy):
    """The matrix product of exact search, without results."""

    name = "sgemm alone"

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Multiply block by block as FAISS does, and discard the scores."""
        for start in range(0, len(self.vectors), 1024):
            np.matmul(queries, self.vectors[start : start + 1024].T)
        return np.full((len(queries), k), -1)


class Flat(BruteNumpy):
    """Our exact search over blocks."""

    name = "ours exact"

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Search blocks of 20,000."""
        blocks = ((np.arange(start, min(start + 20_000, len(self.vectors))), self.vectors[start : start + 20_000]) for start in self.starts)
        return exact_search(queries, blocks, k, faiss.METRIC_INNER_PRODUCT)[1]

    @property
    def starts(self) -> range:
        """First rows of the blocks."""
        return range(0, len(self.vectors), 20_000)
