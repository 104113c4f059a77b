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

from indexmill.tasks.indexing.factory import FAISS_METRICS, use_gpu_clustering

SPILL_CANDIDATES = 15
SPILL_PENALTY = 1.5
KMEANS_ITERATIONS = 6  # more do not improve it measurably
CODE_BITS = 4  # per subquantizer, as fast scan needs
ASSIGN_BLOCK_ROWS = 8192  # vectors assigned together: with 4096 lists their distances take 128 MiB


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
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    for ids, vectors in blocks:
        for start in range(0, len(ids), ASSIGN_BLOCK_ROWS):
            block = np.ascontiguousarray(vectors[start : start + ASSIGN_BLOCK_ROWS], np.float32)
            _add_entries(index, centroids, ids[start : start + ASSIGN_BLOCK_ROWS], transform.apply(block) if transform else block, spill)
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


def assign_lists(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assign each vector to its nearest list and its spill list.

    Everything follows from x·c and c·c', because r₁·r₂ = x·x - x·c₁ - x·c₂ + c₁·c₂; so memory is n * lists numbers.

    Args:
        vectors: float32 (n, dim).
        centroids: float32 (lists, dim).

    Returns:
        Both lists, int64 (n,) each; equal if there is a single list.
    """
    rows = np.arange(len(vectors))
    dots = vectors @ centroids.T
    centroid_dots = centroids @ centroids.T
    squares = np.einsum("ij,ij->i", vectors, vectors)
    distances = np.maximum(squares[:, None] + centroid_dots.diagonal() - 2 * dots, 0)
    first = distances.argmin(axis=1)
    if len(centroids) == 1:
        return first, first
    first_distances = distances[rows, first]
    distances[rows, first] = np.inf
    count = min(SPILL_CANDIDATES, len(centroids) - 1)
    near = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)  # ties: the first list wins
    residual_dots = (squares - dots[rows, first])[:, None] - np.take_along_axis(dots, near, 1) + centroid_dots[first[:, None], near]
    loss = np.take_along_axis(distances, near, 1) + SPILL_PENALTY * residual_dots**2 / np.maximum(first_distances, 1e-12)[:, None]
    return first, near[rows, loss.argmin(axis=1)]


def _train_ivf_pq(sample: np.ndarray, lists: int, subquantizers: int, metric: str, seed: int) -> faiss.IndexIVFPQ:
    dim, kind = sample.shape[1], FAISS_METRICS[metric]
    quantizer: Any = faiss.IndexFlat(dim, kind)
    trained = faiss.IndexIVFPQ(quantizer, dim, lists, subquantizers, CODE_BITS, kind)
    trained.own_fields = True
    quantizer.this.disown()
    trained.by_residual = False
    trained.cp.spherical = metric == "cosine"
    trained.cp.niter = KMEANS_ITERATIONS
    trained.cp.min_points_per_centroid = trained.pq.cp.min_points_per_centroid = 1
    trained.cp.seed = trained.pq.cp.seed = seed + 1  # FAISS replaces 0 by a seed of its own
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


def _add_entries(index: Any, centroids: np.ndarray, ids: np.ndarray, vectors: np.ndarray, spill: bool) -> None:
    """Add the entries of every vector to its lists; each vector is encoded once."""
    lists = np.concatenate(assign_lists(vectors, centroids)[: 1 + spill])
    rows = np.tile(np.arange(len(ids)), 1 + spill)
    order = np.lexsort((rows, lists))
    lists, rows = lists[order], rows[order]
    codes = index.pq.compute_codes(vectors)[rows]
    ids = np.ascontiguousarray(ids[rows], np.int64)
    edges = np.flatnonzero(np.r_[True, lists[1:] != lists[:-1]])
    for start, end in zip(edges, [*edges[1:], len(lists)], strict=True):
        index.invlists.add_entries(int(lists[start]), int(end - start), faiss.swig_ptr(ids[start:end]), faiss.swig_ptr(codes[start:end]))
    index.ntotal += len(rows)
