"""Training: k-means and quantizers learnt from a random sample of the database side, once, and kept while the data are like that."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from configs.models import IndexConfig
from storage import tables
from storage.digests import json_digest
from storage.embeddings import vectors
from storage.errors import InputError
from storage.records import EmbeddingSet, TrainedIndex
from storage.root import Root
from tasks.indexes.drift import measure
from tasks.indexes.factory import ivf_of, least_items, make_index
from tasks.indexes.files import write_index

COPIES = 3  # of the sample: ours, the one that k-means draws from it, and what quantizers are trained on


def train_index(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, reason: str) -> TrainedIndex:
    """A new training in the pool: the empty index, the rows that it was trained on, the baseline of drift, and last its record."""
    index = make_index(config, embeddings.dim)
    needed = not index.is_trained
    sampled = _train(index, root, embeddings, config) if needed else 0
    digest = json_digest([embeddings.digest if needed else "", recipe(embeddings, config)])
    ref = write_index(index, root, root.trained(name, digest, "faiss"))
    with root.replacing(root.trained(name, digest, "rows.parquet")) as temporary:
        tables.copy(_rows(root, embeddings) + ("" if needed else " LIMIT 0"), temporary, spill=root.tmp)
    rows = root.ref(root.trained(name, digest, "rows.parquet"))
    ivf = ivf_of(index)
    trained = TrainedIndex(
        digest=digest, files=(ref, rows), embeddings=embeddings.digest, recipe=recipe(embeddings, config),
        factory=config.factory, metric=config.metric, dim=embeddings.dim, lists=int(ivf.nlist) if ivf is not None else 0, sampled=sampled,
        index=ref, rows=rows, baseline=measure(root, embeddings, index, config) if needed else {}, signals={},
        reason=reason if needed else "nothing to train",
    )  # fmt: skip
    root.write_record(root.trained(name, digest, "json"), trained)
    return trained


def recipe(embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, Any]:
    """What a training must agree in to be used for these vectors with this config."""
    chosen = {"index." + key: getattr(config, key) for key in ("factory", "metric", "seed", "train_points_per_list", "train_memory")}
    return {"encoder": embeddings.fingerprint, "dim": embeddings.dim} | chosen


def sample_size(config: IndexConfig, dim: int) -> int:
    """`train_points_per_list` vectors a list or centroid, as far as index.train_memory holds them; at least one a centroid."""
    least = least_items(config.factory)
    wanted = max(least * config.train_points_per_list, 10_000)
    return max(least, min(wanted, int(config.train_memory) // (4 * dim * COPIES)))


def _train(index: faiss.Index, root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> int:
    """Train on a sample drawn by a keyed hash of the item ids; the sample's size."""
    ivf = ivf_of(index)
    if ivf is not None:
        ivf.cp.min_points_per_centroid = 1  # small data is the user's choice; what cannot work at all is refused before
        ivf.cp.max_points_per_centroid = config.train_points_per_list
    sample = _sample(root, embeddings, sample_size(config, embeddings.dim), config.seed)
    try:
        index.train(sample)
    except RuntimeError as problem:
        raise InputError(
            "FAISS cannot train this index on these items",
            where=f"index.factory = {config.factory}",
            got=f"{len(sample)} vectors of {embeddings.dim} numbers: {str(problem).strip()[-300:]}",
            next_step="choose a factory with fewer lists or centroids, or Flat",
        ) from None
    return len(sample)


def _sample(root: Root, embeddings: EmbeddingSet, size: int, seed: int) -> np.ndarray:
    """float32 (min(size, database), dim), read block by block into its place."""
    sample = np.empty((min(size, embeddings.database), embeddings.dim), np.float32)
    filled = 0
    with vectors(root, embeddings, side="database", sample=(size, seed)) as blocks:
        for ids, block in blocks:
            sample[filled : filled + len(ids)] = block
            filled += len(ids)
    return sample[:filled]


def _rows(root: Root, embeddings: EmbeddingSet) -> str:
    return f"SELECT item_id, content_digest FROM {tables.parquet(root.file(embeddings.items))} WHERE side = 'database' ORDER BY item_id"
