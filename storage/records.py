"""The frozen records that stages pass on.

A record is plain JSON: digests, counts and paths relative to the root, never arrays, tables or handles. `digest`
identifies its content, and `files` must be on disk for the record to be valid. The same record is the next stage's
cache key, an entry of the manifest and a row of the catalog.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from indexmill.storage.names import RelativePath

Modality = Literal["text", "image"]
Precision = Literal["float32", "bfloat16", "float16"]
Rerank = Literal["none", "sq8", "fp16", "exact"]
Side = Literal["database", "query"]


class FrozenModel(BaseModel):
    """Base class of configs, records and JSON files: immutable, rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyModel = TypeVar("AnyModel", bound=FrozenModel)


class FileRef(FrozenModel):
    """A reference to one file."""

    path: RelativePath = Field(description="relative to the root, in a manifest to the snapshot's folder")
    size: int = Field(description="bytes")
    sha256: str | None = Field(description="None for a Parquet part, which has checksums of its own")


class Record(FrozenModel):
    """The result of a stage. Records with the same digest stand for the same content."""

    digest: str
    files: tuple[FileRef, ...]


class Dataset(Record):
    """The items as the source lists them, and its scored pairs."""

    name: str
    source: str
    revision: str
    modality: Modality
    image_root: str | None = Field(description="the folder that image paths are relative to; None for texts")
    labeled: bool
    items: int
    unreadable_files: int = Field(description="images whose bytes could not be read")
    skipped: dict[str, int] = Field(default={}, description="files that are no items, by suffix or kind")
    table: FileRef
    pairs: FileRef | None


class ValidatedDataset(Record):
    """The items that passed validation, and the rejects with their reasons."""

    name: str
    modality: Modality
    image_root: str | None
    labeled: bool
    items: int
    rejected: int
    rejected_by_reason: dict[str, int]
    skipped: dict[str, int] = Field(default={}, description="files that are no items, by suffix or kind")
    table: FileRef
    rejects: FileRef
    pairs: FileRef | None


class SplitDataset(Record):
    """The items that passed validation, each with its side."""

    name: str
    modality: Modality
    image_root: str | None
    labeled: bool
    content: str = Field(description="digest of the table alone, which does not depend on where the images are")
    database: int
    query: int
    labels: int
    groups: int
    conflicts: int = Field(description="content groups whose items have more than one label")
    leaks: int = Field(description="queries that are nearly equal to an item of the database")
    table: FileRef
    by_label: FileRef = Field(description="a table of the items per label on either side")
    pairs: FileRef | None


class EmbeddingSet(Record):
    """A vector for every item of its table, in the embedding store `fingerprint`."""

    split: str
    modality: Modality = Field(description="what was encoded: the images or the texts")
    fingerprint: str
    encoder: dict[str, Any]
    dim: int
    database: int
    query: int
    encoded: int = Field(description="distinct contents that this build encoded")
    reused: int = Field(description="distinct contents that the store had already")
    rejected: int = Field(description="items of the split without a usable vector")
    truncated: int = Field(description="items of which the model saw only the beginning")
    items: FileRef = Field(description="the split's table without the rejected items")
    rejects: FileRef | None = Field(description="the rejected items with their reasons")
    captions: EmbeddingSet | None = Field(
        default=None, description="the captions of the images, by the same encoder; item ids are those of the images"
    )

    def for_modality(self, modality: Modality | None) -> EmbeddingSet:
        """Return the vectors of one modality, by default the items' own. Raises KeyError when there are none."""
        if modality in (None, self.modality):
            return self
        if self.captions is None:
            raise KeyError(modality)
        return self.captions


class Evaluation(Record):
    """The metrics of an index, and the files behind them."""

    shards: str
    relevance_source: Literal["label", "pairs"] | None = Field(description="what makes an item relevant to a query")
    metrics: dict[str, float] = Field(description="reproducible metrics")
    intervals: dict[str, tuple[float, float]] = Field(description="95 % bootstrap intervals of means in `metrics`")
    scored_pairs: dict[str, dict[str, float | int | None]] = Field(description="correlations per file of scored pairs")
    timings: dict[str, float] = Field(description="seconds, milliseconds and queries per second, which vary between runs")
    counts: dict[str, int]
    per_query: FileRef = Field(description="Parquet, one row per query")
    per_label: FileRef = Field(description="Parquet, one row per label")
    search_sweep: FileRef = Field(description="Parquet, one row per set of search parameters")
    report_data: FileRef = Field(description="JSON, the data of the report's figures")
    ground_truth: FileRef = Field(description="the exact nearest neighbors of the queries")
    trec: tuple[FileRef, ...] = Field(default=(), description="run and qrels in trec_eval's format, when the config asks for them")


class Snapshot(Record):
    """A published index."""

    snapshot_id: str
    parent: str | None
    folder: str
    items: int


def read_record(path: Path, kind: type[AnyModel]) -> AnyModel | None:
    """Return the record in a file, or None if the file does not exist or holds another or an older kind of record."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
