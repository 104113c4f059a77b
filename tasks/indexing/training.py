"""Train an index on a random sample of the database side, or reuse the previous training until the data drift."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.indexing.auto_factory import FactoryChoice, choose_factory
from indexmill.tasks.indexing.coarse_quantizer import expand_factory, has_graph, train_graph_quantizer
from indexmill.tasks.indexing.drift import check_drift, measure_baseline, measure_drift
from indexmill.tasks.indexing.factory import find_ivf, make_index, min_training_items, use_gpu_clustering
from indexmill.tasks.indexing.reranking import compute_bounds
from indexmill.tasks.indexing.shard_store import read_index, read_record, write_index
from indexmill.tasks.indexing.soar import train_soar

TRAINING_SAMPLE_COPIES = 3  # in memory: the sample, the one that k-means draws from it, and the one for quantizers
MIN_SAMPLE_SIZE = 10_000
RECIPE_KEYS = ("factory", "metric", "seed", "train_points_per_list", "train_memory", "rerank", "recall_target", "memory_budget")


def reuse_or_train(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, last: TrainedIndex | None) -> TrainedIndex:
    """Reuse the last training if it still fits the data, or train a new index.

    `reason` and `signals` of the record say why.
    """
    if last is None:
        return train_index(root, name, embeddings, config, "the first of this index")
    recipe = build_recipe(embeddings, config)
    if changed_keys := [key for key in recipe if last.recipe.get(key) != recipe[key]]:
        changes = ", ".join(f"{key} was {last.recipe.get(key)}" for key in changed_keys)
        return train_index(root, name, embeddings, config, f"retrained: {changes}")
    try:
        index = read_index(root.file(last.index), last.index)
        root.verify_file(last.rows)
    except DamagedFile as error:
        return train_index(root, name, embeddings, config, f"retrained: {error.got}")
    if not last.baseline:
        return last
    signals = measure_drift(root, embeddings, last, index, config)
    check = check_drift(signals, last.baseline, config.drift)
    if check.exceeded:
        trained = train_index(root, name, embeddings, config, "retrained: " + "; ".join(check.exceeded))
        return trained.model_copy(update={"signals": signals})
    return last.model_copy(update={"signals": signals, "reason": "reused: " + "; ".join(check.within)})


def train_index(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, reason: str) -> TrainedIndex:
    """Train an index on a sample of the database, and write it to the pool.

    The files are the empty index, the rows that it was trained on, the bounds for sq8, and last the record with the
    baseline of drift.
    """
    recipe = build_recipe(embeddings, config)
    choice = FactoryChoice(config.factory, config.rerank) if config.factory != "auto" else choose_factory(root, embeddings, config)
    config = config.model_copy(update={"factory": choice.factory})
    untrained = None if choice.soar_candidate else make_index(config, embeddings.dim)
    needs_training = untrained is None or not untrained.is_trained
    sample = _read_sample(root, embeddings, compute_sample_size(config, embeddings.dim) if needs_training else 0, config.seed)
    index = _train(untrained, choice, sample, config)
    digest = json_digest([embeddings.digest if needs_training else "", recipe])
    index_ref = write_index(index, root, root.trained_path(name, digest, "faiss"))
    rows_ref = _write_training_rows(root, name, digest, embeddings, is_empty=not needs_training)
    bounds_ref = _write_bounds(root, name, digest, embeddings, config) if choice.rerank == "sq8" else None
    ivf = find_ivf(index)
    trained = TrainedIndex(
        digest=digest,
        files=(index_ref, rows_ref, *([bounds_ref] if bounds_ref else [])),
        embeddings=embeddings.digest,
        recipe=recipe,
        factory=expand_factory(choice.factory),
        metric=config.metric,
        dim=embeddings.dim,
        lists=int(ivf.nlist) if ivf is not None else 0,
        sampled=len(sample),
        index=index_ref,
        rows=rows_ref,
        baseline=measure_baseline(root, embeddings, index, config) if needs_training else {},
        signals={},
        reason=reason if needs_training else "not needed by this index",
        fast_scan=choice.soar_candidate is not None,
        spill=bool(choice.soar_candidate and choice.soar_candidate.spill),
        rerank=choice.rerank,
        bounds=bounds_ref,
        choice=choice.comparison,
    )
    root.write_record(root.trained_path(name, digest, "json"), trained)
    return trained


def load_last_training(root: Root, name: str, live: Manifest | None) -> TrainedIndex | None:
    """Load the record of the training behind the live snapshot from the pool; None if there is none."""
    if live is None or "digest" not in live.training:
        return None
    return read_record(root.fetch(root.trained_path(name, live.training["digest"], "json")), TrainedIndex)


def build_recipe(embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, Any]:
    """Collect the settings that a training must share with this config and these vectors to be reused."""
    settings = {"index." + key: getattr(config, key) for key in RECIPE_KEYS}
    return {"encoder": embeddings.fingerprint, "dim": embeddings.dim} | settings


def compute_sample_size(config: IndexConfig, dim: int) -> int:
    """Compute the training sample size: `train_points_per_list` vectors per list or centroid, as far as
    index.train_memory allows.

    Returns:
        The number of vectors, at least one per list or centroid.
    """
    minimum = min_training_items(config.factory)
    preferred = max(minimum * config.train_points_per_list, MIN_SAMPLE_SIZE)
    return max(minimum, min(preferred, int(config.train_memory) // (4 * dim * TRAINING_SAMPLE_COPIES)))


def _train(index: Any, choice: FactoryChoice, sample: np.ndarray, config: IndexConfig) -> Any:
    """Train the chosen SOAR candidate, or else FAISS's index if it needs training, on the sample."""
    candidate = choice.soar_candidate
    try:
        if candidate:
            return train_soar(
                sample, candidate.lists, candidate.subquantizers, config.metric, seed=config.seed, pca_dims=candidate.pca_dims
            )
        if not index.is_trained:
            ivf = find_ivf(index)
            _set_clustering_limits(ivf, config)
            if ivf is not None and has_graph(ivf):
                train_graph_quantizer(index, ivf, sample, config.metric, config.seed, config.train_points_per_list)
            with use_gpu_clustering(ivf):
                index.train(sample)
        return index
    except RuntimeError as error:
        raise InputError(
            "FAISS cannot train this index on these items",
            where=f"index.factory = {config.factory}",
            got=f"{len(sample)} vectors of {sample.shape[1]} dimensions: {str(error).strip()[-300:]}",
            next_step="choose a factory with fewer lists or centroids, or Flat",
        ) from None


def _set_clustering_limits(ivf: faiss.IndexIVF | None, config: IndexConfig) -> None:
    if ivf is not None:
        ivf.cp.min_points_per_centroid = 1  # small data are the user's choice; what cannot work is rejected earlier
        ivf.cp.max_points_per_centroid = config.train_points_per_list


def _write_training_rows(root: Root, name: str, digest: str, embeddings: EmbeddingSet, *, is_empty: bool) -> FileRef:
    """Write the database side (item_id, content_digest); no rows if the index needs no training."""
    path = root.trained_path(name, digest, "rows.parquet")
    items = parquet.scan_sql(root.file(embeddings.items))
    sql = f"SELECT item_id, content_digest FROM {items} WHERE side = 'database' ORDER BY item_id"
    with root.replace_atomically(path) as temporary:
        parquet.copy_query(sql + (" LIMIT 0" if is_empty else ""), temporary, temp_dir=root.tmp)
    return root.make_ref(path)


def _write_bounds(root: Root, name: str, digest: str, embeddings: EmbeddingSet, config: IndexConfig) -> FileRef:
    """Write the range of each dimension in a sample, which sq8 codes divide."""
    path = root.trained_path(name, digest, "bounds.npy")
    with root.replace_atomically(path) as temporary:
        np.save(temporary, compute_bounds(_read_sample(root, embeddings, config.drift.sample, config.seed)))
    return root.make_ref(path)


def _read_sample(root: Root, embeddings: EmbeddingSet, size: int, seed: int) -> np.ndarray:
    """Read a sample of the database side block by block into one array, float32 (min(size, database), dim)."""
    sample = np.empty((min(size, embeddings.database), embeddings.dim), np.float32)
    filled = 0
    with open_vectors(root, embeddings, side="database", sample=(size, seed)) as blocks:
        for ids, block in blocks:
            sample[filled : filled + len(ids)] = block
            filled += len(ids)
    return sample[:filled]
