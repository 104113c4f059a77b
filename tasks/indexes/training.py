"""Training: k-means and quantizers learnt from a random sample of the database side, once, and kept while the data are like that."""

from __future__ import annotations

from typing import Any, cast

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage import tables
from indexmill.storage.digests import json_digest
from indexmill.storage.embeddings import vectors
from indexmill.storage.errors import InputError
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.indexes.choice import Candidate
from indexmill.tasks.indexes.choosing import Chosen, choose, train_own
from indexmill.tasks.indexes.drift import measure
from indexmill.tasks.indexes.factory import ivf_of, least_items, make_index
from indexmill.tasks.indexes.files import write_index
from indexmill.tasks.indexes.gpu import clustering
from indexmill.tasks.indexes.rerank import bounds_of

COPIES = 3  # of the sample: ours, the one that k-means draws from it, and what quantizers are trained on


def train_index(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, reason: str) -> TrainedIndex:
    """A new training in the pool: the empty index, the rows that it was trained on, the baseline of drift, and last its record."""
    chosen = choose(root, embeddings, config)
    plain = config.model_copy(update={"factory": chosen.factory})
    index = None if chosen.own else make_index(plain, embeddings.dim)
    needed = index is None or not index.is_trained
    sample = _sample(root, embeddings, sample_size(plain, embeddings.dim) if needed else 0, config.seed)
    index = _trained(index, chosen, sample, plain)
    digest = json_digest([embeddings.digest if needed else "", recipe(embeddings, config)])
    ref = write_index(index, root, root.trained(name, digest, "faiss"))
    with root.replacing(root.trained(name, digest, "rows.parquet")) as temporary:
        tables.copy(_rows(root, embeddings) + ("" if needed else " LIMIT 0"), temporary, spill=root.tmp)
    rows = root.ref(root.trained(name, digest, "rows.parquet"))
    bounds = _bounds(root, name, digest, embeddings, config) if chosen.rerank == "sq8" else None
    ivf = ivf_of(index)
    trained = TrainedIndex(
        digest=digest, files=(ref, rows, *([bounds] if bounds else [])), embeddings=embeddings.digest, recipe=recipe(embeddings, config),
        factory=chosen.factory, metric=config.metric, dim=embeddings.dim, lists=int(ivf.nlist) if ivf is not None else 0,
        sampled=len(sample), index=ref, rows=rows, baseline=measure(root, embeddings, index, config) if needed else {}, signals={},
        reason=reason if needed else "nothing to train", fast_scan=chosen.own is not None, spill=bool(chosen.own and chosen.own.spill),
        rerank=chosen.rerank, bounds=bounds, choice=chosen.table,
    )  # fmt: skip
    root.write_record(root.trained(name, digest, "json"), trained)
    return trained


def recipe(embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, Any]:
    """What a training must agree in to be used for these vectors with this config."""
    keys = ("factory", "metric", "seed", "train_points_per_list", "train_memory", "rerank", "recall_target", "memory_budget")
    chosen = {"index." + key: getattr(config, key) for key in keys}
    return {"encoder": embeddings.fingerprint, "dim": embeddings.dim} | chosen


def sample_size(config: IndexConfig, dim: int) -> int:
    """`train_points_per_list` vectors a list or centroid, as far as index.train_memory holds them; at least one a centroid."""
    least = least_items(config.factory)
    wanted = max(least * config.train_points_per_list, 10_000)
    return max(least, min(wanted, int(config.train_memory) // (4 * dim * COPIES)))


def _trained(index: faiss.Index | None, chosen: Chosen, sample: np.ndarray, config: IndexConfig) -> faiss.Index:
    """The index trained on the sample. None stands for the chosen one of our own making."""
    try:
        if index is None:
            return train_own(cast(Candidate, chosen.own), sample, config)
        if not index.is_trained:
            _limit(index, config)
            with clustering(ivf_of(index)):
                index.train(sample)
        return index
    except RuntimeError as problem:
        raise InputError(
            "FAISS cannot train this index on these items",
            where=f"index.factory = {config.factory}",
            got=f"{len(sample)} vectors of {sample.shape[1]} numbers: {str(problem).strip()[-300:]}",
            next_step="choose a factory with fewer lists or centroids, or Flat",
        ) from None


def _limit(index: faiss.Index, config: IndexConfig) -> None:
    ivf = ivf_of(index)
    if ivf is not None:
        ivf.cp.min_points_per_centroid = 1  # small data is the user's choice; what cannot work at all is refused before
        ivf.cp.max_points_per_centroid = config.train_points_per_list


def _bounds(root: Root, name: str, digest: str, embeddings: EmbeddingSet, config: IndexConfig) -> FileRef:
    """The range of each dimension, of a sample: what 8 bits a number stand for."""
    target = root.trained(name, digest, "bounds.npy")
    with root.replacing(target) as temporary:
        np.save(temporary, bounds_of(_sample(root, embeddings, config.drift.sample, config.seed)))
    return root.ref(target)


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
