"""Training: k-means and quantizers learnt from a random sample of the database side."""

from __future__ import annotations

import faiss

from configs.models import IndexConfig
from storage.embeddings import joined, vectors
from storage.errors import InputError
from storage.records import EmbeddingSet
from storage.root import Root
from tasks.indexes.factory import ivf_of, least_items, make_index


def train_index(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> tuple[faiss.Index, int]:
    """An empty trained index and the size of its sample: `train_points_per_list` a list, or a centroid of its quantizer."""
    index = make_index(config, embeddings.dim)
    if index.is_trained:
        return index, 0
    ivf = ivf_of(index)
    if ivf is not None:
        ivf.cp.min_points_per_centroid = 1  # small data is the user's choice; what cannot work at all is refused before
        ivf.cp.max_points_per_centroid = config.train_points_per_list
    size = max(least_items(config.factory) * config.train_points_per_list, 10_000)
    with vectors(root, embeddings, side="database", sample=(size, config.seed)) as blocks:
        _, sample = joined(blocks, embeddings.dim)
    try:
        index.train(sample)
    except RuntimeError as problem:
        raise InputError(
            "FAISS cannot train this index on these items",
            where=f"index.factory = {config.factory}",
            got=f"{len(sample)} vectors of {embeddings.dim} numbers: {str(problem).strip()[-300:]}",
            next_step="choose a factory with fewer lists or centroids, or Flat",
        ) from None
    return index, len(sample)
