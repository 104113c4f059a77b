"""Shard: the database side in FAISS files."""

from __future__ import annotations

from prefect import task

from configs.models import IndexConfig
from storage.digests import json_digest
from storage.records import EmbeddingSet, IndexShards, TrainedIndex
from storage.root import Root
from tasks.indexes.shards import fill_shards
from tasks.policy import REMEMBERED, StageCache
from tasks.progress import track


@task(name="shard", cache_policy=StageCache(stage_version=1, libraries=("faiss-cpu",)), **REMEMBERED)
def shard(root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, config: IndexConfig) -> IndexShards:
    """`shards` files; one that an earlier build made from the same rows and training is taken as it is."""
    with track("filling shards", embeddings.database) as advance:
        shards, built = fill_shards(root, name, embeddings, trained, "database", config.shards, advance)
    return IndexShards(
        digest=json_digest([shard.key for shard in shards]), files=tuple(shard.index for shard in shards), trained=trained.digest,
        shards=shards, built=built, reused=len(shards) - built,
    )  # fmt: skip
