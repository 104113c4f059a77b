"""The frozen records that cross stage boundaries.

A record is JSON-simple: digests, counts and paths relative to the root, never arrays, tables or handles. `digest` says what the
record stands for; `files` says what must be on disk for it to be believed. So one record is the cache key of the next stage, the
line in the manifest and the row in the catalog.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Modality = Literal["text", "image"]
Precision = Literal["float32", "bfloat16", "float16"]
Rerank = Literal["none", "sq8", "fp16", "exact"]
Side = Literal["database", "query"]


class Frozen(BaseModel):
    """Base of everything that is written as JSON: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRef(Frozen):
    """One file: its path relative to the root, its size in bytes, its SHA-256 (None where only the size is vouched for)."""

    path: str
    size: int
    sha256: str | None


class Record(Frozen):
    """What a stage hands on. Two records with the same digest stand for the same content."""

    digest: str
    files: tuple[FileRef, ...]


class Dataset(Record):
    """The items as the source lists them, and its scored pairs.

    base: the folder that image paths start from; None for texts. unread: images whose bytes could not be read.
    """

    name: str
    source: str
    revision: str
    modality: Modality
    base: str | None
    labelled: bool
    items: int
    unread: int
    table: FileRef
    pairs: FileRef | None


class ValidatedDataset(Record):
    """The items that passed, and those that did not with their reasons."""

    name: str
    modality: Modality
    base: str | None
    labelled: bool
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
    base: str | None
    labelled: bool
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

    def of(self, modality: Modality | None) -> EmbeddingSet:
        """The vectors of one modality, the items' own by default; KeyError when there are none."""
        if modality in (None, self.modality):
            return self
        if self.captions is None:
            raise KeyError(modality)
        return self.captions


class TrainedIndex(Record):
    """An empty FAISS index, trained on a sample of the database side, and why it is a new one or that of an earlier night.

    embeddings: what it was trained on. recipe: encoder and settings that it stands for. rows: the database side then (item_id,
    content_digest).
    baseline: what drift is measured against, as it was at training. signals: the same now, and how far it has moved.
    fast_scan: the index is made by `tasks.indexes.spill` and not by FAISS's factory; spill: then, whether items lie in two lists.
    rerank: how candidates are ranked again; bounds: with sq8, the range of each dimension. choice: the candidates that `auto` compared.
    """

    embeddings: str
    recipe: dict[str, Any]
    factory: str
    metric: str
    dim: int
    lists: int
    sampled: int
    index: FileRef
    rows: FileRef
    baseline: dict[str, float]
    signals: dict[str, float]
    reason: str
    fast_scan: bool = False
    spill: bool = False
    rerank: Rerank = "none"
    bounds: FileRef | None = None
    choice: tuple[dict[str, Any], ...] = ()


class Shard(Frozen):
    """One filled FAISS file. `key` is the digest of the training and of the rows that it holds.

    rows: a table of what it holds (item_id, content_digest), by ascending id. vectors: by suffix (`ids.npy`, `vectors.npy`, …), the
    files from which its candidates are ranked again; empty where the index's own scores are final.
    """

    side: Side
    number: int
    count: int
    key: str
    trained: str
    index: FileRef
    rows: FileRef
    vectors: dict[str, FileRef] = {}

    @property
    def files(self) -> tuple[FileRef, ...]:
        """All files of the shard."""
        return (self.index, self.rows, *self.vectors.values())


class IndexShards(Record):
    """The database side as FAISS shards: so many built from nothing, updated from an earlier shard, or taken as they were."""

    trained: str
    shards: tuple[Shard, ...]
    built: int
    updated: int
    reused: int


class SearchSetting(Frozen):
    """How an index is to be searched: lists or graph candidates to look at, candidates to re-rank, and whether items may come twice."""

    nprobe: int | None = None
    ef_search: int | None = None
    candidates: int | None = None
    spill: bool = False


class TunedIndex(Record):
    """The setting that the shards are searched with, and how it was found.

    recall: recall@10 on the queries tuned with; recall_bound: what it surely is (95 %). met: whether that is at the target.
    """

    shards: str
    setting: SearchSetting
    target: float | None
    met: bool | None
    recall: float | None
    recall_bound: float | None
    cpu_ms_a_query: float | None
    latency_met: bool | None
    reason: str


class Evaluation(Record):
    """Figures that do not depend on the machine's mood (`metrics`) and those that do (`timings`, in seconds or queries a second)."""

    shards: str
    metrics: dict[str, float]
    timings: dict[str, float]
    counts: dict[str, int]
    metrics_json: FileRef
    study_json: FileRef


class Snapshot(Record):
    """A published index."""

    snapshot_id: str
    parent: str | None
    folder: str
    items: int


class Manifest(Frozen):
    """All that a snapshot is made of; the file written last in its folder.

    holds: what its vectors were made from, the items themselves or their captions. truncated: items of which the encoder saw only the
    beginning. search: how the shards are searched, and how that was found. training: the digest of the trained index, why it is that one,
    and the signals of drift behind it. files and shards: paths relative to the snapshot's folder. pool: the files under the root that they
    were linked from. created_at: UTC, ISO 8601; told and never compared. seal: SHA-256 of all the rest; `storage.snapshots` sets it and
    checks it.
    """

    schema_version: Literal[1] = 1
    name: str
    snapshot_id: str
    parent: str | None
    created_at: str
    content: str
    config: dict[str, Any]
    modality: Modality
    base: str | None
    holds: Modality
    fingerprint: str
    encoder: dict[str, Any]
    truncated: int
    datasets: dict[str, str]
    factory: str
    metric: str
    dim: int
    items: int
    database: int
    query: int
    rejected: int
    split: dict[str, int]
    metrics: dict[str, float]
    timings: dict[str, float]
    training: dict[str, Any] = {}
    search: TunedIndex
    shards: tuple[Shard, ...]
    files: tuple[FileRef, ...]
    pool: tuple[str, ...]
    verdict: str
    versions: dict[str, str]
    threads: int
    seal: str = ""
