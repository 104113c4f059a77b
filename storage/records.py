"""The frozen records that cross stage boundaries.

A record is JSON-simple: digests, counts and paths relative to the root, never arrays, tables or handles. `digest` says what the
record stands for; `files` says what must be on disk for it to be believed. So one record is the cache key of the next stage, the
line in the manifest and the row in the catalog.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from indexmill.storage.names import RelativePath

Modality = Literal["text", "image"]
Precision = Literal["float32", "bfloat16", "float16"]
Rerank = Literal["none", "sq8", "fp16", "exact"]
Side = Literal["database", "query"]


class FrozenModel(BaseModel):
    """Base of everything that is written as JSON: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


AnyModel = TypeVar("AnyModel", bound=FrozenModel)


class FileRef(FrozenModel):
    """One file: its path relative to the root, its size in bytes, its SHA-256 (None where only the size is vouched for)."""

    path: RelativePath
    size: int
    sha256: str | None


class Record(FrozenModel):
    """What a stage hands on. Two records with the same digest stand for the same content."""

    digest: str
    files: tuple[FileRef, ...]


class Dataset(Record):
    """The items as the source lists them, and its scored pairs.

    base: the folder that image paths start from; None for texts. unreadable_files: images whose bytes could not be read.
    """

    name: str
    source: str
    revision: str
    modality: Modality
    image_root: str | None
    labeled: bool
    items: int
    unreadable_files: int
    table: FileRef
    pairs: FileRef | None


class ValidatedDataset(Record):
    """The items that passed, and those that did not with their reasons."""

    name: str
    modality: Modality
    image_root: str | None
    labeled: bool
    items: int
    rejected: int
    rejected_by_reason: dict[str, int]
    table: FileRef
    rejects: FileRef
    pairs: FileRef | None


class SplitDataset(Record):
    """The passed items with their side. `content` is the digest of the table alone, wherever its images lie.

    conflicts: content groups whose items have more than one label. leaks: queries that are nearly an item of the database; with
    `split.leaks: exclude` no figure counts them. by_label: a table of each label's items on either side.
    """

    name: str
    modality: Modality
    image_root: str | None
    labeled: bool
    content: str
    database: int
    query: int
    labels: int
    groups: int
    conflicts: int
    leaks: int
    table: FileRef
    by_label: FileRef
    pairs: FileRef | None


class EmbeddingSet(Record):
    """A vector for every item of its table, in the embedding store `fingerprint`. encoded and reused count distinct contents.

    modality: what was encoded of the items. rejected: items of the split that have no vector that can be searched; `rejects` says why, and
    `items` is the split's table without them. truncated: items of which the model saw only the beginning.
    captions: the same for the captions of images, by the text side of the same encoder; its item ids are those of the images.
    """

    split: str
    modality: Modality
    fingerprint: str
    encoder: dict[str, Any]
    dim: int
    database: int
    query: int
    encoded: int
    reused: int
    rejected: int
    truncated: int
    items: FileRef
    rejects: FileRef | None
    captions: EmbeddingSet | None = None

    def for_modality(self, modality: Modality | None) -> EmbeddingSet:
        """The vectors of one modality, the items' own by default; KeyError when there are none."""
        if modality in (None, self.modality):
            return self
        if self.captions is None:
            raise KeyError(modality)
        return self.captions


class Evaluation(Record):
    """Figures that do not depend on the machine's mood (`metrics`) and those that do (`timings`: seconds, milliseconds, queries a second).

    intervals: 95 % bootstrap intervals of the means among the metrics. graded: by file of scored pairs. judged_by: what says which items
    are relevant to a query. per_query, per_label, study (search settings): Parquet; sketches: JSON, what the report draws; truth: the exact
    neighbours; trec: a run and its qrels in trec_eval's form, where the config asks for them.
    """

    shards: str
    relevance_source: Literal["label", "pairs"] | None
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    scored_pairs: dict[str, dict[str, float | int | None]]
    timings: dict[str, float]
    counts: dict[str, int]
    per_query: FileRef
    per_label: FileRef
    search_sweep: FileRef
    report_data: FileRef
    ground_truth: FileRef
    trec: tuple[FileRef, ...] = ()


class Snapshot(Record):
    """A published index."""

    snapshot_id: str
    parent: str | None
    folder: str
    items: int


def read_record(path: Path, kind: type[AnyModel]) -> AnyModel | None:
    """Return the record in a file, or None if the file does not exist or holds something else (an older form, say)."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
