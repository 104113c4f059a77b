"""Train: an empty index of the asked-for kind, trained on a random sample of the database side."""

from __future__ import annotations

from prefect import task

from configs.models import IndexConfig
from storage.digests import json_digest
from storage.records import EmbeddingSet, TrainedIndex
from storage.root import Root
from tasks.indexes.factory import ivf_of
from tasks.indexes.files import write_index
from tasks.indexes.training import train_index
from tasks.policy import REMEMBERED, StageCache
from tasks.progress import track


@task(name="train", cache_policy=StageCache(stage_version=1, libraries=("faiss-cpu",)), **REMEMBERED)
def train(root: Root, name: str, embeddings: EmbeddingSet, config: IndexConfig) -> TrainedIndex:
    """The trained index as a file of its own, from which every shard starts."""
    with track(f"training {config.factory}", 1) as advance:
        index, sampled = train_index(root, embeddings, config)
        advance(1)
    digest = json_digest([embeddings.digest, config.factory, config.metric, config.seed, config.train_points_per_list])
    ref = write_index(index, root, root.index(name) / "trained" / f"{digest[:32]}.faiss")
    ivf = ivf_of(index)
    return TrainedIndex(
        digest=digest, files=(ref,), embeddings=embeddings.digest, factory=config.factory, metric=config.metric,
        dim=embeddings.dim, lists=int(ivf.nlist) if ivf is not None else 0, sampled=sampled, index=ref,
    )  # fmt: skip
