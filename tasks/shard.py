"""Shard: the database side in FAISS files."""

from __future__ import annotations

from prefect import task

from indexmill.configs.models import IndexConfig
from indexmill.storage.digests import json_digest
from indexmill.storage.index_records import IndexShards, TrainedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import load_previous_shards
from indexmill.tasks.progress import track
from indexmill.tasks.runner import LOCAL_RUNNER, Runner
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("shard"))
def shard(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, config: IndexConfig, runner: Runner = LOCAL_RUNNER
) -> IndexShards:
    """Bring the shards of the live snapshot up to date: unchanged ones are reused, changed ones are written under a new
    key.
    """
    previous = load_previous_shards(root, name, Snapshots(root, name).read_live_manifest(), "database", config.shards)
    with track("filling shards", embeddings.database) as advance:
        shard_build = build_shards(root, name, embeddings, trained, config, previous=previous, advance=advance, runner=runner)
    return IndexShards(
        digest=json_digest([shard.key for shard in shard_build.shards]),
        files=tuple(ref for shard in shard_build.shards for ref in shard.files),
        trained=trained.digest,
        shards=shard_build.shards,
        built=shard_build.built,
        updated=shard_build.updated,
        reused=shard_build.reused,
    )
