"""The manifest: the file that describes a snapshot.

Compatibility: the format has a number, `schema_version`. docs/manifest.schema.json describes the newest one.

- Within a version, no field is removed or changes its meaning. A new field has a default, so that older manifests stay
  valid, and readers ignore fields that they do not know.
- Any other change raises the version. Readers reject a version outside OLDEST to NEWEST by its number, with the next
  step.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from indexmill.storage.index_records import Shard, TunedIndex
from indexmill.storage.names import RelativePath
from indexmill.storage.records import ChunkEstimate, FileRef, FrozenModel, Modality, Role

OLDEST_SCHEMA_VERSION, NEWEST_SCHEMA_VERSION = 2, 2


class Manifest(FrozenModel):
    """The description of a snapshot, written last in its folder.

    All paths are relative to that folder, except those of `sources` and `pool_files`.
    """

    schema_version: Literal[2] = 2
    name: str = Field(description="the index")
    snapshot_id: str
    parent: str | None = Field(description="the snapshot that was live when this one was built")
    created_at: str = Field(description="UTC, ISO 8601; for information only, never compared")
    content: str = Field(description="digest of everything that determines the snapshot")
    config: dict[str, Any] = Field(description="the pipeline config")
    modality: Modality = Field(description="modality of the items")
    image_root: str | None = Field(description="the folder that image paths are relative to")
    index_modality: Modality = Field(description="what the index holds: vectors of the items or of their captions")
    embedding_stores: dict[str, RelativePath] = Field(
        description="fingerprint -> the snapshot's table of the contents that this embedding store has vectors of"
    )
    query_stores: dict[str, tuple[RelativePath, ...]] = Field(
        default_factory=dict,
        exclude_if=lambda stores: not stores,
        description="fingerprint -> the snapshot's tables of queries of one's own that this embedding store has vectors of",
    )
    fingerprint: str = Field(description="the encoder's fingerprint")
    query_fingerprint: str = Field(default="", description="the encoder's fingerprint for queries, if it is another one")
    prompts: dict[Role, str] = Field(
        default_factory=dict, description="role -> what the encoder puts before its texts; empty without prompts"
    )
    encoder: dict[str, Any]
    truncated: int = Field(description="items of which the encoder saw only the beginning")
    datasets: dict[str, str] = Field(description="digests of the validated and of the split items")
    factory: str = Field(description="FAISS factory string")
    metric: str
    dim: int
    items: int
    chunk_estimate: ChunkEstimate | None = Field(
        default=None, description="if the encoder truncated texts: what indexing them in chunks would cost"
    )
    vectors: int | None = Field(default=None, description="vectors in the index: more than the items if those are in chunks")
    database: int
    query: int
    rejected: int
    split: dict[str, int]
    metrics: dict[str, float]
    timings: dict[str, float]
    training: dict[str, Any] = Field(
        default_factory=dict, description="digest of the trained index, why it was trained or reused, and the drift signals"
    )
    search: TunedIndex = Field(description="the search parameters, and how they were chosen")
    shards: tuple[Shard, ...]
    files: tuple[FileRef, ...] = Field(description="every file of the snapshot except the manifest")
    sources: dict[str, RelativePath] = Field(
        default_factory=dict, description="name of a file of the snapshot -> the file relative to the root that it is a link to"
    )
    pool_files: tuple[RelativePath, ...] = Field(description="files relative to the root that are kept as long as the snapshot")
    verdict: Literal["published", "refused"] = Field(description="the decision of the gate")
    failed_rules: tuple[str, ...] = Field(description="the gate rules that failed")
    force_reason: str | None = Field(description="the reason given for publishing despite failed rules")
    versions: dict[str, str] = Field(description="library -> version")
    threads: int
    manifest_sha256: str = Field(default="", description="SHA-256 of the manifest without this field")
