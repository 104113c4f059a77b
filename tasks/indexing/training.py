"""Train an index on a random sample of the database side, or reuse the previous training until the data drift."""

from __future__ import annotations

from typing import Any, cast

import faiss
import numpy as np
from pydantic import ValidationError

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.indexing.auto_factory import FactoryChoice, IndexCandidate, choose_factory, train_candidate
from indexmill.tasks.indexing.drift import check_drift, drift, measure_baseline
from indexmill.tasks.indexing.factory import find_ivf, gpu_clustering, make_index, min_training_items
from indexmill.tasks.indexing.reranking import compute_bounds
from indexmill.tasks.indexing.shard_store import read_index, write_index

TRAINING_SAMPLE_COPIES = 3  # of the sample: ours, the one that k-means draws from it, and what quantizers are trained on


def train_index(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, reason: str) -> TrainedIndex:
    """A new training in the pool: the empty index, the rows that it was trained on, the baseline of drift, and last its record."""
    chosen = choose_factory(root, embeddings, config)
    plain = config.model_copy(update={"factory": chosen.factory})
    index = None if chosen.soar_candidate else make_index(plain, embeddings.dim)
    needed = index is None or not index.is_trained
    sample = _read_sample(root, embeddings, compute_sample_size(plain, embeddings.dim) if needed else 0, config.seed)
    index = _train(index, chosen, sample, plain)
    digest = json_digest([embeddings.digest if needed else "", recipe(embeddings, config)])
    ref = write_index(index, root, root.trained_path(name, digest, "faiss"))
    with root.replace_atomically(root.trained_path(name, digest, "rows.parquet")) as temporary:
        parquet.copy_query(_training_rows_sql(root, embeddings) + ("" if needed else " LIMIT 0"), temporary, temp_dir=root.tmp)
    rows = root.make_ref(root.trained_path(name, digest, "rows.parquet"))
    bounds = _write_bounds(root, name, digest, embeddings, config) if chosen.rerank == "sq8" else None
    ivf = find_ivf(index)
    trained = TrainedIndex(
        digest=digest, files=(ref, rows, *([bounds] if bounds else [])), embeddings=embeddings.digest, recipe=recipe(embeddings, config),
        factory=chosen.factory, metric=config.metric, dim=embeddings.dim, lists=int(ivf.nlist) if ivf is not None else 0,
        sampled=len(sample), index=ref, rows=rows, baseline=measure_baseline(root, embeddings, index, config) if needed else {}, signals={},
        reason=reason if needed else "nothing to train", fast_scan=chosen.soar_candidate is not None, spill=bool(chosen.soar_candidate and chosen.soar_candidate.spill),
        rerank=chosen.rerank, bounds=bounds, choice=chosen.table,
    )  # fmt: skip
    root.write_record(root.trained_path(name, digest, "json"), trained)
    return trained


def recipe(embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, Any]:
    """What a training must agree in to be used for these vectors with this config."""
    keys = ("factory", "metric", "seed", "train_points_per_list", "train_memory", "rerank", "recall_target", "memory_budget")
    chosen = {"index." + key: getattr(config, key) for key in keys}
    return {"encoder": embeddings.fingerprint, "dim": embeddings.dim} | chosen


def compute_sample_size(config: IndexConfig, dim: int) -> int:
    """`train_points_per_list` vectors a list or centroid, as far as index.train_memory holds them; at least one a centroid."""
    least = min_training_items(config.factory)
    wanted = max(least * config.train_points_per_list, 10_000)
    return max(least, min(wanted, int(config.train_memory) // (4 * dim * TRAINING_SAMPLE_COPIES)))


def _train(index: faiss.Index | None, chosen: FactoryChoice, sample: np.ndarray, config: IndexConfig) -> faiss.Index:
    """The index trained on the sample. None stands for the chosen one of our own making."""
    try:
        if index is None:
            return train_candidate(cast(IndexCandidate, chosen.soar_candidate), sample, config)
        if not index.is_trained:
            _set_clustering_limits(index, config)
            with gpu_clustering(find_ivf(index)):
                index.train(sample)
        return index
    except RuntimeError as problem:
        raise InputError(
            "FAISS cannot train this index on these items",
            where=f"index.factory = {config.factory}",
            got=f"{len(sample)} vectors of {sample.shape[1]} numbers: {str(problem).strip()[-300:]}",
            next_step="choose a factory with fewer lists or centroids, or Flat",
        ) from None


def _set_clustering_limits(index: faiss.Index, config: IndexConfig) -> None:
    ivf = find_ivf(index)
    if ivf is not None:
        ivf.cp.min_points_per_centroid = 1  # small data is the user's choice; what cannot work at all is refused before
        ivf.cp.max_points_per_centroid = config.train_points_per_list


def _write_bounds(root: Root, name: str, digest: str, embeddings: EmbeddingSet, config: IndexConfig) -> FileRef:
    """The range of each dimension, of a sample: what 8 bits a number stand for."""
    target = root.trained_path(name, digest, "bounds.npy")
    with root.replace_atomically(target) as temporary:
        np.save(temporary, compute_bounds(_read_sample(root, embeddings, config.drift.sample, config.seed)))
    return root.make_ref(target)


def _read_sample(root: Root, embeddings: EmbeddingSet, size: int, seed: int) -> np.ndarray:
    """float32 (min(size, database), dim), read block by block into its place."""
    sample = np.empty((min(size, embeddings.database), embeddings.dim), np.float32)
    filled = 0
    with open_vectors(root, embeddings, side="database", sample=(size, seed)) as blocks:
        for ids, block in blocks:
            sample[filled : filled + len(ids)] = block
            filled += len(ids)
    return sample[:filled]


def _training_rows_sql(root: Root, embeddings: EmbeddingSet) -> str:
    return f"SELECT item_id, content_digest FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database' ORDER BY item_id"


def load_last_training(root: Root, name: str, live: Manifest | None) -> TrainedIndex | None:
    """The training behind the live snapshot, as its record in the pool says; None where there is none."""
    if live is None or "digest" not in live.training:
        return None
    try:
        return TrainedIndex.model_validate_json(root.trained_path(name, live.training["digest"], "json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def reuse_or_train(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, last: TrainedIndex | None) -> TrainedIndex:
    """The last training with today's signals and why it still serves, or a new one with why it had to be."""
    if last is None:
        return train_index(root, name, embeddings, config, "first training of this index")
    wanted = recipe(embeddings, config)
    differing = [key for key in wanted if last.recipe.get(key) != wanted[key]]
    if differing:
        why = ", ".join(f"{key} was {last.recipe.get(key)}" for key in differing)
        return train_index(root, name, embeddings, config, f"trained anew: {why}")
    try:
        index = read_index(root.file(last.index), last.index)
        root.verify_file(last.rows)
    except DamagedFile as problem:
        return train_index(root, name, embeddings, config, f"trained anew: {problem.got}")
    if not last.baseline:
        return last
    signals = drift(root, embeddings, last, index, config)
    past, within = check_drift(signals, last.baseline, config.drift)
    if past:
        return train_index(root, name, embeddings, config, "trained anew: " + "; ".join(past)).model_copy(update={"signals": signals})
    return last.model_copy(update={"signals": signals, "reason": "reused: " + "; ".join(within)})
