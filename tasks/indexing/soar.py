"""Spilled fast-scan IVF-PQ: every vector is in two lists, the second chosen to compensate for the first.

After Sun, Guo and Kumar, "SOAR: Improved Indexing for Approximate Nearest Neighbor Search", NeurIPS 2023. With c₁ the nearest centroid of a
vector x and r₁ = x - c₁, the second list is the one of the next SPILL_CANDIDATES that minimizes ‖r₂‖² + SPILL_PENALTY (r₁·r₂)² / ‖r₁‖². A
query that the first list serves badly because it points along r₁ is then served well by the second.

Codes are of x itself, not of a residual, so both entries of a vector share one code and one lookup table serves all lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexing.factory import FAISS_METRICS, gpu_clustering

SPILL_CANDIDATES = 15
SPILL_PENALTY = 1.5
KMEANS_ITERATIONS = 6  # of k-means; more gain nothing measurable
CODE_BITS = 4  # a code; what fast scanning takes
ASSIGN_BLOCK_ROWS = 8192  # vectors assigned at once: with 4096 lists a block's distances are 128 MiB


def train_soar(
    sample: np.ndarray, lists: int, subquantizers: int, metric: str, *, seed: int = 0, pca_dims: int | None = None
) -> faiss.IndexIVFPQ | faiss.IndexPreTransform:
    """An empty trained index for vectors like the sample (float32, (n, dim)): `lists` centroids, codes of `subquantizers` times 4 bits.

    dims: work on so many principal directions only (see `fit_projection`), which lets a shorter code find as much. `subquantizers` divides it.
    Equal samples, seeds and thread counts give equal bytes. Raises RuntimeError, as FAISS does, when the sample is smaller than the lists.
    """
    sample = np.ascontiguousarray(sample, np.float32)
    if pca_dims is None:
        return _train(sample, lists, subquantizers, metric, seed)
    transform = fit_projection(sample, pca_dims, subquantizers)
    return _prepend_transform(transform, _train(transform.apply(sample), lists, subquantizers, metric, seed))


def fill_index(trained: Any, blocks: Iterable[tuple[np.ndarray, np.ndarray]], *, spill: bool = True) -> Any:
    """A fast-scan index of the blocks (ids int64, vectors float32); `trained` stays as it was.

    Each id lies in two lists, or without spill in the nearest. Peak memory is two copies of the codes: pieces + 16 bytes a vector and copy.
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


def update(index: Any, added: Any, removed: np.ndarray) -> None:
    """Take the ids `removed` (int64) out of the index, then move everything of `added` into it, which is empty afterwards."""
    if len(removed):
        index.remove_ids(np.ascontiguousarray(removed, np.int64))
    if added.ntotal:
        index.merge_from(added, 0)


def fit_projection(sample: np.ndarray, pca_dims: int, subquantizers: int) -> faiss.LinearTransform:
    """The sample's first `pca_dims` principal directions about the origin, dealt out so that each piece of a code gets its share of variance.

    The directions go to the pieces as in a snake draft: the first to piece 0, 1, …, the next ones in the opposite order, and so on. Inner
    products and distances change only by what the left-out directions hold.
    """
    _, directions = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    turns = np.arange(pca_dims).reshape(-1, subquantizers)
    turns[1::2] = turns[1::2, ::-1]
    matrix = directions[:, ::-1][:, turns.T.reshape(-1)].T
    return _make_transform(matrix)


def assign_lists(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest list and the spill list of each vector, int64 (n,) each; with a single list both are it.

    Everything comes from x·c and c·c': r₁·r₂ = x·x - x·c₁ - x·c₂ + c₁·c₂, so that memory is n times lists numbers.
    """
    rows = np.arange(len(vectors))
    dots = vectors @ centroids.T
    among = centroids @ centroids.T
    squares = np.einsum("ij,ij->i", vectors, vectors)
    distances = np.maximum(squares[:, None] + among.diagonal() - 2 * dots, 0)
    first = distances.argmin(axis=1)
    if len(centroids) == 1:
        return first, first
    nearest = distances[rows, first]
    distances[rows, first] = np.inf
    count = min(SPILL_CANDIDATES, len(centroids) - 1)
    near = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)  # equal losses: the first list wins
    along = (squares - dots[rows, first])[:, None] - np.take_along_axis(dots, near, 1) + among[first[:, None], near]
    loss = np.take_along_axis(distances, near, 1) + SPILL_PENALTY * along**2 / np.maximum(nearest, 1e-12)[:, None]
    return first, near[rows, loss.argmin(axis=1)]


def _train(sample: np.ndarray, lists: int, subquantizers: int, metric: str, seed: int) -> faiss.IndexIVFPQ:
    dim, kind = sample.shape[1], FAISS_METRICS[metric]
    quantizer: Any = faiss.IndexFlat(dim, kind)
    trained = faiss.IndexIVFPQ(quantizer, dim, lists, subquantizers, CODE_BITS, kind)
    trained.own_fields = True
    quantizer.this.disown()
    trained.by_residual = False
    trained.cp.spherical = metric == "cosine"
    trained.cp.niter = KMEANS_ITERATIONS
    trained.cp.min_points_per_centroid = trained.pq.cp.min_points_per_centroid = 1
    trained.cp.seed = trained.pq.cp.seed = seed + 1  # FAISS takes 0 for a seed of its own
    with gpu_clustering(trained):
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
    """An index that projects what it is given, and owns both."""
    whole: Any = faiss.IndexPreTransform(transform, index)
    whole.own_fields = True
    transform.this.disown()
    index.this.disown()
    return whole


def _split_transform(index: Any) -> tuple[Any, Any]:
    """The projection, if there is one, and the inverted lists behind it."""
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        return faiss.downcast_VectorTransform(chain.at(0)), faiss.downcast_index(index.index)
    return None, index


def _to_fast_scan(index: Any) -> faiss.IndexIVFPQFastScan:
    """The index in fast-scan order, which takes over its quantizer. (To add to that form with lists given corrupts it.)"""
    packed: Any = faiss.IndexIVFPQFastScan(index)
    index.own_fields, packed.own_fields = False, True
    # What FAISS and its Python keep of the old form would hold its codes in memory for as long as the new one lives.
    packed.orig_invlists, packed.referenced_objects = None, []
    return packed


def _add_entries(index: Any, centroids: np.ndarray, ids: np.ndarray, vectors: np.ndarray, spill: bool) -> None:
    """Put the entries of every vector into the lists; each vector is coded once."""
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
