"""SOAR: fast-scan IVF-PQ with spilled assignments.

Every vector is in two lists, the second chosen to compensate for the first.

Source: Sun, Guo and Kumar, "SOAR: Improved Indexing for Approximate Nearest Neighbor Search", NeurIPS 2023. Let c₁ be
the nearest centroid of a vector x and r₁ = x - c₁. The second list is the one of the next SPILL_CANDIDATES that
minimizes ‖r₂‖² + SPILL_PENALTY (r₁·r₂)² / ‖r₁‖². A query that the first list serves badly because it points along r₁ is
then served well by the second.

Codes are of x itself, not of a residual, so both entries of a vector share one code, and one lookup table serves all
lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.coarse_quantizer import MANY_LISTS, has_graph, make_quantizer, train_graph_quantizer
from indexmill.tasks.indexing.factory import FAISS_METRICS, use_gpu_clustering

SPILL_CANDIDATES = 15
SPILL_PENALTY = 1.5
KMEANS_ITERATIONS = 6  # more do not improve it measurably
POINTS_PER_LIST = 256  # FAISS's own limit
CODE_BITS = 4  # per subquantizer, as fast scan needs
ASSIGN_BLOCK_ROWS = 8192  # vectors assigned together: with 4096 lists their distances take 128 MiB
ASSIGN_BLOCK_BYTES = 1 << 27  # of distances, or of candidate centroids


def train_soar(
    sample: np.ndarray, lists: int, subquantizers: int, metric: str, *, seed: int = 0, pca_dims: int | None = None
) -> faiss.IndexIVFPQ | faiss.IndexPreTransform:
    """Train an empty index. Equal samples, seeds and thread counts give equal bytes.

    Args:
        sample: float32 (n, dim).
        lists: the number of inverted lists.
        subquantizers: the number of 4-bit codes per vector.
        metric: cosine, ip or l2.
        seed: the seed of k-means.
        pca_dims: the number of principal directions to project on (`fit_projection`), so that a shorter code reaches
            the same recall; a multiple of `subquantizers`. None: all dimensions.

    Raises:
        RuntimeError: from FAISS, if the sample is smaller than the number of lists.
    """
    sample = np.ascontiguousarray(sample, np.float32)
    if pca_dims is None:
        return _train_ivf_pq(sample, lists, subquantizers, metric, seed)
    transform = fit_projection(sample, pca_dims, subquantizers)
    return _prepend_transform(transform, _train_ivf_pq(transform.apply(sample), lists, subquantizers, metric, seed))


def fill_index(trained: Any, blocks: Iterable[tuple[np.ndarray, np.ndarray]], *, spill: bool = True) -> Any:
    """Fill a copy of a trained index, and return it in fast-scan order. Peak memory: two copies of codes and ids.

    Args:
        trained: the empty index, which does not change.
        blocks: (ids int64 (n,), vectors float32 (n, dim)).
        spill: assign every vector to two lists; otherwise to the nearest one.
    """
    transform, inner = _split_transform(trained)
    index: Any = faiss.clone_index(inner)
    assigner = ListAssigner(index.quantizer.reconstruct_n(0, index.nlist), index.quantizer)
    for ids, vectors in blocks:
        for start in range(0, len(ids), assigner.block_rows):
            rows = slice(start, start + assigner.block_rows)
            block = np.ascontiguousarray(vectors[rows], np.float32)
            _add_entries(index, assigner, ids[rows], transform.apply(block) if transform else block, spill)
    packed = _to_fast_scan(index)
    return _prepend_transform(_make_transform(_get_matrix(transform)), packed) if transform else packed


def fit_projection(sample: np.ndarray, pca_dims: int, subquantizers: int) -> faiss.LinearTransform:
    """Fit a projection on the first `pca_dims` principal directions about the origin, dealt so that subquantizers share
    the variance.

    The directions are dealt as in a snake draft: the first ones to subquantizer 0, 1, …, the next ones in the opposite
    order, and so on. Inner products and distances change only by the share of the omitted directions.
    """
    _, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    turns = np.arange(pca_dims).reshape(-1, subquantizers)
    turns[1::2] = turns[1::2, ::-1]
    matrix = directions[:, ::-1][:, turns.T.reshape(-1)].T
    return _make_transform(matrix)


class ListAssigner:
    """Assigns vectors to their nearest list and to their spill list.

    Up to MANY_LISTS lists, all distances are computed. For more, the nearest ones are found through an HNSW graph: that of
    the quantizer if it orders lists by distance, as an inner product does when all centroids have one length, or else one
    that is built here.

    Args:
        centroids: float32 (lists, dim).
        quantizer: the coarse quantizer of the index; None for computing all distances.
    """

    def __init__(self, centroids: np.ndarray, quantizer: Any = None) -> None:
        self._centroids, lists = centroids, len(centroids)
        self._graph: Any = _make_distance_graph(centroids, quantizer) if quantizer is not None and lists >= MANY_LISTS else None
        near_bytes = 4 * (SPILL_CANDIDATES + 1) * centroids.shape[1]
        self.block_rows = max(1, min(ASSIGN_BLOCK_ROWS, ASSIGN_BLOCK_BYTES // (near_bytes if self._graph else max(near_bytes, 4 * lists))))
        self._squares = np.einsum("ij,ij->i", centroids, centroids)

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both lists of float32 vectors (n, dim), int64 (n,) each; equal if there is a single list."""
        near, distances = self._search_graph(vectors) if self._graph else self._search_all(vectors)
        first = np.ascontiguousarray(near[:, 0])
        if len(self._centroids) == 1:
            return first, first
        residuals = vectors[:, None, :] - self._centroids[near]
        dots = np.einsum("nkd,nd->nk", residuals[:, 1:], residuals[:, 0])
        loss = distances[:, 1:] + SPILL_PENALTY * dots**2 / np.maximum(distances[:, :1], 1e-12)
        return first, near[np.arange(len(near)), 1 + loss.argmin(axis=1)]

    def assign_nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Return the first list that `assign` returns, int64 (n,), without looking for a second one: a third of its time."""
        if self._graph:
            return np.ascontiguousarray(self._search_graph(vectors)[0][:, 0])
        return self._compute_distances(vectors).argmin(axis=1)

    def _search_all(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest list and then the next SPILL_CANDIDATES, int64 (n, 1 + candidates), and squared distances."""
        count = min(SPILL_CANDIDATES, len(self._centroids) - 1)
        distances = self._compute_distances(vectors)
        first = distances.argmin(axis=1)[:, None]
        first_distances = np.take_along_axis(distances, first, 1)
        if not count:
            return first, first_distances
        np.put_along_axis(distances, first, np.inf, 1)
        near = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)  # ties: the first list wins
        return np.hstack([first, near]), np.hstack([first_distances, np.take_along_axis(distances, near, 1)])

    def _compute_distances(self, vectors: np.ndarray) -> np.ndarray:
        """Compute the squared distances to all centroids, float32 (n, lists)."""
        distances: np.ndarray = vectors @ self._centroids.T
        distances *= -2
        distances += self._squares
        distances += np.einsum("ij,ij->i", vectors, vectors)[:, None]
        return np.maximum(distances, 0, out=distances)

    def _search_graph(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_search_all`, through the graph. A list that it cannot reach is replaced by the nearest one."""
        near = self._graph.search(vectors, SPILL_CANDIDATES + 1)[1]
        near = np.where(near < 0, near[:, :1], near)
        distances = np.square(vectors[:, None, :] - self._centroids[near]).sum(axis=2)
        distances[:, 1:][near[:, 1:] == near[:, :1]] = np.inf
        return near, distances


def assign_lists(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign each vector to its nearest list and its spill list, by all distances.

    Args:
        vectors: float32 (n, dim).
        centroids: float32 (lists, dim).

    Returns:
        Both lists, int64 (n,) each; equal if there is a single list.
    """
    return ListAssigner(centroids).assign(vectors)


def _make_distance_graph(centroids: np.ndarray, quantizer: Any) -> Any:
    """Return an HNSW graph that finds the centroids at the smallest Euclidean distance."""
    lengths = np.linalg.norm(centroids, axis=1)
    if isinstance(faiss.downcast_index(quantizer), faiss.IndexHNSW) and (
        quantizer.metric_type == faiss.METRIC_L2 or np.ptp(lengths) < 1e-3 * lengths.mean()
    ):
        return quantizer
    graph = make_quantizer(centroids.shape[1], len(centroids), faiss.METRIC_L2)
    graph.add(centroids)
    return graph


def _train_ivf_pq(sample: np.ndarray, lists: int, subquantizers: int, metric: str, seed: int) -> faiss.IndexIVFPQ:
    dim, kind = sample.shape[1], FAISS_METRICS[metric]
    quantizer = make_quantizer(dim, lists, kind)
    trained = faiss.IndexIVFPQ(quantizer, dim, lists, subquantizers, CODE_BITS, kind)
    trained.own_fields = True
    quantizer.this.disown()
    trained.by_residual = False
    trained.cp.spherical = metric == "cosine"
    trained.cp.niter = KMEANS_ITERATIONS
    trained.cp.min_points_per_centroid = trained.pq.cp.min_points_per_centroid = 1
    trained.cp.seed = trained.pq.cp.seed = seed + 1  # FAISS replaces 0 by a seed of its own
    if has_graph(trained):
        train_graph_quantizer(trained, trained, sample, metric, seed, POINTS_PER_LIST)
    with use_gpu_clustering(trained):
        trained.train(sample)
    return trained


def _make_transform(matrix: np.ndarray) -> faiss.LinearTransform:
    transform: Any = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    faiss.copy_array_to_vector(np.ascontiguousarray(matrix, np.float32).reshape(-1), transform.A)
    transform.is_trained = True
    return transform


def _get_matrix(transform: Any) -> np.ndarray:
    return faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)


def _prepend_transform(transform: Any, index: Any) -> faiss.IndexPreTransform:
    """Put a projection before an index; the result owns both."""
    pre_transform: Any = faiss.IndexPreTransform(transform, index)
    pre_transform.own_fields = True
    transform.this.disown()
    index.this.disown()
    return pre_transform


def _split_transform(index: Any) -> tuple[Any, Any]:
    """Return the projection, or None, and the IVF index behind it."""
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        return faiss.downcast_VectorTransform(chain.at(0)), faiss.downcast_index(index.index)
    return None, index


def _to_fast_scan(index: Any) -> faiss.IndexIVFPQFastScan:
    """Convert the index to fast-scan order, which takes over its quantizer.

    (Adding to given lists in that order corrupts it.)
    """
    packed: Any = faiss.IndexIVFPQFastScan(index)
    index.own_fields, packed.own_fields = False, True
    # Drop the references to the old index, which would keep its codes in memory as long as the new one lives.
    packed.orig_invlists, packed.referenced_objects = None, []
    return packed


def _add_entries(index: Any, assigner: ListAssigner, ids: np.ndarray, vectors: np.ndarray, spill: bool) -> None:
    """Add the entries of every vector to its lists; each vector is encoded once."""
    lists = np.concatenate(assigner.assign(vectors)) if spill else assigner.assign_nearest(vectors)
    rows = np.tile(np.arange(len(ids)), 1 + spill)
    order = np.lexsort((rows, lists))
    lists, rows = lists[order], rows[order]
    codes = index.pq.compute_codes(vectors)[rows]
    ids = np.ascontiguousarray(ids[rows], np.int64)
    edges = np.flatnonzero(np.r_[True, lists[1:] != lists[:-1]])
    for start, end in zip(edges, [*edges[1:], len(lists)], strict=True):
        index.invlists.add_entries(int(lists[start]), int(end - start), faiss.swig_ptr(ids[start:end]), faiss.swig_ptr(codes[start:end]))
    index.ntotal += len(rows)
