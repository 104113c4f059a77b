"""Train an empty index, or reuse the training of the live snapshot until the data have drifted."""

from __future__ import annotations

from prefect import task

from indexmill.configs.models import IndexConfig
from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.training import load_last_training, reuse_or_train
from indexmill.tasks.progress import track
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("train"))
def train(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig) -> TrainedIndex:
    """Train the empty index from which every shard starts, or reuse the last one; `reason` states which, and why."""
    last = load_last_training(root, name, Snapshots(root, name).read_live_manifest())
    with track(f"training {config.factory}", 1) as advance:
        trained = reuse_or_train(root, name, embeddings, config, last)
        advance(1)
    return trained
