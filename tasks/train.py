"""Train: an empty index of the asked-for kind, that of an earlier night while the data are still like that."""

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
    """The trained index as a file of its own, from which every shard starts. `reason` says why it is the last one or a new one."""
    last = load_last_training(root, name, Snapshots(root, name).read_live_manifest())
    with track(f"training {config.factory}", 1) as advance:
        trained = reuse_or_train(root, name, embeddings, config, last)
        advance(1)
    return trained
