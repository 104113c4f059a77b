"""The build that the gate decides on, and the shards it would serve."""

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
    """One build before the gate.

    Attributes:
        live: Manifest of the snapshot that it would replace; None if there is none.
        force_reason: Why to publish it even if the gate refuses it; None for no force.
        stage_seconds: Wall-clock seconds of each stage before publishing.
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
    stage_seconds: Mapping[str, float]

    @property
    def index_embeddings(self) -> EmbeddingSet:
        """The embeddings that the index holds."""
        return self.embeddings.for_modality(self.config.index.modality)

    @property
    def rejected_items(self) -> int:
        """Number of items that validation or encoding rejected."""
        return self.validated.rejected + self.index_embeddings.rejected


@dataclass(frozen=True)
class ServedShards:
    """The shards of both sides, the database's first, the table of all rejects, and the number of items in all shards."""

    shards: tuple[Shard, ...]
    rejects: FileRef
    items: int

    @property
    def vectors(self) -> int:
        """Number of vectors in all shards: that of the items, or of their chunks."""
        return sum(shard.count for shard in self.shards)
