"""Reuse of a training: the last one as long as it suits the config and the data have not drifted from it."""

from __future__ import annotations

from pydantic import ValidationError

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import DamagedFile
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexes.drift import drift, judge
from indexmill.tasks.indexes.files import read_index
from indexmill.tasks.indexes.training import recipe, train_index


def last_training(root: Root, name: str, live: Manifest | None) -> TrainedIndex | None:
    """The training behind the live snapshot, as its record in the pool says; None where there is none."""
    if live is None or "digest" not in live.training:
        return None
    try:
        return TrainedIndex.model_validate_json(root.trained(name, live.training["digest"], "json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def trained_for(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig, last: TrainedIndex | None) -> TrainedIndex:
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
        root.verified(last.rows)
    except DamagedFile as problem:
        return train_index(root, name, embeddings, config, f"trained anew: {problem.got}")
    if not last.baseline:
        return last
    signals = drift(root, embeddings, last, index, config)
    past, within = judge(signals, last.baseline, config.drift)
    if past:
        return train_index(root, name, embeddings, config, "trained anew: " + "; ".join(past)).model_copy(update={"signals": signals})
    return last.model_copy(update={"signals": signals, "reason": "reused: " + "; ".join(within)})
