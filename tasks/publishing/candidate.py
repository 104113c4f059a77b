"""The build under decision and the shards it would serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from indexmill.configs.models import PipelineConfig
from indexmill.storage.index_records import IndexShards, Shard, TrainedIndex, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root


@dataclass(frozen=True)
class BuildCandidate:
    """One build before its verdict. forced: the reason for publishing it whatever the gate says. seconds: of each stage before this one.

    live: the manifest of the snapshot that it would replace, None when there is none.
    """

    root: Root
    config: PipelineConfig
    validated: ValidatedDataset
    split: SplitDataset
    embeddings: EmbeddingSet
    trained: TrainedIndex
    shards: IndexShards
    tuned: TunedIndex
    evaluation: Evaluation
    live: Manifest | None
    force_reason: str | None
    seconds: Mapping[str, float]

    @property
    def index_embeddings(self) -> EmbeddingSet:
        """The vectors that the index is made of."""
        return self.embeddings.for_modality(self.config.index.modality)

    @property
    def rejected(self) -> int:
        """Items without a place in the index."""
        return self.validated.rejected + self.index_embeddings.rejected


@dataclass(frozen=True)
class ServedShards:
    """The shards of both sides, the database's first, and the table of all rejects."""

    shards: tuple[Shard, ...]
    rejects: FileRef

    @property
    def items(self) -> int:
        """Items in all shards."""
        return sum(shard.count for shard in self.shards)
