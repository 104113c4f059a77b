"""Train the centroids of many inverted lists, and find the nearest of them through a graph.

With L lists, flat k-means and flat assignment cost L products per vector: at 65,536 lists 780 CPU seconds per million
vectors of 384 dimensions, against 176 through an HNSW graph that finds the same list for 97 %. From MANY_LISTS lists on,
therefore, the coarse quantizer is HNSW over the same centroids, with the metric of the index, and k-means has two levels:
√L clusters, each divided into its share of the lists, then REFINEMENTS iterations of k-means with all centroids, whose
assignments go through the graph. docs/benchmarks.md has the measurements behind these choices.
"""

from __future__ import annotations

import math
import re
from typing import Any

import faiss
import numpy as np

MANY_LISTS = 16_384
GRAPH_LINKS = 32
GRAPH_EF = 64  # candidates per vector when lists are assigned or probed; more if more lists are probed
REFINEMENT_EF = 16  # while k-means still moves the centroids
REFINEMENTS = 3
LEVEL_ITERATIONS = 10


def expand_factory(factory: str) -> str:
    """Give an IVF factory with many lists and no quantizer of its own an HNSW one: IVF65536,PQ48 → IVF65536_HNSW32,PQ48."""
    return re.sub(
        r"\bIVF(\d+)(?=,|$)",
        lambda match: f"{match[0]}_HNSW{GRAPH_LINKS}" if int(match[1]) >= MANY_LISTS else match[0],
        factory,
    )


def make_quantizer(dim: int, lists: int, metric: int) -> Any:
    """Make an empty coarse quantizer: HNSW for many lists, flat for fewer. metric: FAISS's number."""
    if lists < MANY_LISTS:
        return faiss.IndexFlat(dim, metric)
    graph: Any = faiss.IndexHNSWFlat(dim, GRAPH_LINKS, metric)
    graph.hnsw.efSearch = GRAPH_EF
    return graph


def has_graph(ivf: Any) -> bool:
    """Whether the coarse quantizer of an IVF index is an HNSW graph."""
    return isinstance(faiss.downcast_index(ivf.quantizer), faiss.IndexHNSW)


def train_graph_quantizer(index: Any, ivf: Any, sample: np.ndarray, metric: str, seed: int, points_per_list: int) -> None:
    """Train what precedes the lists of an index, and its coarse quantizer, an HNSW graph; the codes are trained by FAISS.

    FAISS itself would run flat k-means, for inner products only with spherical centroids.

    Args:
        index: an empty index whose lists have such a quantizer; transforms may precede them.
        ivf: the IVF index inside it.
        sample: float32 (n, dim).
        metric: cosine, ip or l2.
        seed: the seed of k-means.
        points_per_list: the most vectors per list that k-means uses.
    """
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        for position in range(chain.size()):
            transform = faiss.downcast_VectorTransform(chain.at(position))
            if not transform.is_trained:
                transform.train(sample)
            sample = transform.apply(sample)
    quantizer: Any = faiss.downcast_index(ivf.quantizer)
    quantizer.hnsw.efSearch = max(quantizer.hnsw.efSearch, GRAPH_EF)
    quantizer.reset()
    quantizer.add(train_centroids(sample, ivf.nlist, metric, seed, points_per_list))
    quantizer.is_trained = True


def train_centroids(sample: np.ndarray, lists: int, metric: str, seed: int, points_per_list: int) -> np.ndarray:
    """Train centroids, float32 (lists, dim), by k-means in two levels; by flat k-means for few lists, or on a GPU.

    Equal samples, seeds and thread counts give equal centroids. Those of the cosine metric have length 1.

    Args:
        sample: float32 (n, dim), n >= lists.
        lists: the number of centroids.
        metric: cosine, ip or l2.
        seed: the seed of k-means.
        points_per_list: at most this many vectors per list are used.

    Raises:
        RuntimeError: from FAISS, if the sample is smaller than the number of lists.
    """
    dim, settings = sample.shape[1], {"spherical": metric == "cosine", "seed": seed + 1, "min_points_per_centroid": 1}
    sample = np.ascontiguousarray(sample[: lists * points_per_list], np.float32)
    gpus = faiss.get_num_gpus()
    if lists < MANY_LISTS or gpus:
        kmeans = faiss.Kmeans(dim, lists, gpu=gpus, max_points_per_centroid=points_per_list, **settings)
        kmeans.train(sample)
        return np.asarray(kmeans.centroids)
    centroids = _train_two_levels(sample, lists, settings)
    clustering: Any = faiss.Clustering(dim, lists)
    clustering.niter, clustering.max_points_per_centroid = REFINEMENTS, points_per_list
    for name, value in settings.items():
        setattr(clustering, name, value)
    faiss.copy_array_to_vector(centroids.reshape(-1), clustering.centroids)
    graph: Any = faiss.IndexHNSWFlat(dim, GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2)
    graph.hnsw.efSearch = REFINEMENT_EF
    clustering.train(sample, graph)
    return faiss.vector_to_array(clustering.centroids).reshape(lists, dim)


def _train_two_levels(sample: np.ndarray, lists: int, settings: dict[str, Any]) -> np.ndarray:
    """Divide √lists clusters into as many lists as their vectors are worth; every cluster has one or more, if possible."""
    groups = max(1, math.isqrt(lists))
    coarse = faiss.Kmeans(sample.shape[1], groups, niter=LEVEL_ITERATIONS, max_points_per_centroid=2000, **settings)
    coarse.train(sample)
    group_of = coarse.assign(sample)[1]
    sizes = np.bincount(group_of, minlength=groups)
    order = np.argsort(group_of, kind="stable")
    shares = _share_lists(sizes, lists)
    centroids, start = [], 0
    for size, share in zip(sizes.tolist(), shares.tolist(), strict=True):
        members = sample[order[start : start + size]]
        start += size
        if share == size:
            centroids.append(members)
        elif share:
            fine = faiss.Kmeans(sample.shape[1], share, niter=LEVEL_ITERATIONS, **settings)
            fine.train(np.ascontiguousarray(members))
            centroids.append(np.asarray(fine.centroids))
    return np.ascontiguousarray(np.concatenate(centroids), np.float32)


def _share_lists(sizes: np.ndarray, lists: int) -> np.ndarray:
    """Share the lists among groups in proportion to their sizes: none has more lists than vectors.

    Args:
        sizes: vectors per group, int64 (groups,), at least `lists` in all.
        lists: the number of lists.
    """
    ends = np.cumsum(sizes) * lists // sizes.sum()
    shares: np.ndarray = np.diff(ends, prepend=0)
    return shares
