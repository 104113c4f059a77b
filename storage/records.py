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
Runtime = Literal["torch", "onnx"]
Precision = Literal["float32", "bfloat16", "float16"]
Rerank = Literal["none", "sq8", "fp16", "exact"]
Side = Literal["database", "query"]
Role = Literal["document", "query"]  # what a text is encoded as; models may have a prompt for each


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
    downloaded_bytes: int = Field(default=0, description="size of the copies of images that are not on this machine's disk")
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


class ChunkTable(FrozenModel):
    """The texts of a data set in chunks that an encoder sees as a whole."""

    table: FileRef = Field(description="like the table of the items, by chunk id, with parent_id (the item) and chunk (its position)")
    chunks: int
    items: int = Field(description="items that have more than one chunk")
    context: int | None = Field(description="the most tokens that the encoder sees")


class ChunkEstimate(FrozenModel):
    """What dividing the texts of a data set into chunks would give, or give up."""

    texts: int
    cut: int = Field(description="texts of which the encoder sees only the beginning")
    chunks: int = Field(description="chunks of all texts")
    tokens: int = Field(description="tokens of a chunk: the encoder's context")
    overlap: int
    sampled: int = Field(description="texts that the numbers were estimated from; all of them if it equals `texts`")


class QueryTable(FrozenModel):
    """One set of queries of one's own, with the judgements of items."""

    name: str = Field(description="empty for the main set")
    modality: Modality
    image_root: str | None = Field(description="the folder that image paths are relative to; None for texts")
    table: FileRef = Field(description="a table like that of the items, all on the query side; keys are query ids")
    judgements: FileRef | None = Field(description="query_id, item_id, item (its key) and grade of each judged pair; None without any")
    rejects: FileRef = Field(description="the queries that cannot be used, with their reasons")
    is_pairs: bool = Field(default=False, description="made from the images and captions of the data set")
    counts: dict[str, int] = Field(description="queries and judgements by what became of them")


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
    chunks: ChunkTable | None = Field(default=None, description="the texts in chunks, if they are to be indexed as such")
    query_tables: tuple[QueryTable, ...] = Field(default=(), exclude_if=lambda tables: not tables, description="queries of one's own")
    items_digest: str | None = Field(
        default=None, exclude_if=lambda digest: digest is None, description="the digest without `query_tables`; None without any"
    )


class StoredVectors(FrozenModel):
    """Whole vectors in an embedding store, of which an embedding set uses the beginnings."""

    fingerprint: str = Field(description="the embedding store")
    dim: int
    normalize: bool = Field(description="whether the beginnings are scaled to unit length")


class EmbeddingSet(Record):
    """A vector for every item of its table, in the embedding store `fingerprint` or derived from those in `stored`."""

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
    prompts: dict[Role, str] = Field(default_factory=dict, description="role -> what precedes its texts; empty without prompts")
    query_fingerprint: str = Field(default="", description="the fingerprint of the same encoder for queries, if it is another one")
    stored: StoredVectors | None = Field(default=None, description="the vectors that these are the beginnings of, if any")
    chunks: EmbeddingSet | None = Field(
        default=None, description="the chunks of the items, which the index holds; then the vector of an item is that of its first chunk"
    )
    captions: EmbeddingSet | None = Field(
        default=None, description="the captions of the images, by the same encoder; item ids are those of the images"
    )
    query_sets: tuple[EncodedQueries, ...] = Field(
        default=(), exclude_if=lambda sets: not sets, description="queries of one's own, the main set first"
    )
    items_digest: str | None = Field(
        default=None, exclude_if=lambda digest: digest is None, description="the digest without `query_sets`; None without any"
    )
    items_files: int | None = Field(
        default=None, exclude_if=lambda count: count is None, description="how many of `files`, the first ones, are not of `query_sets`"
    )

    @property
    def store_fingerprint(self) -> str:
        """The embedding store that holds the vectors."""
        return self.stored.fingerprint if self.stored else self.fingerprint

    @property
    def indexed_vectors(self) -> EmbeddingSet:
        """The set with one row per vector of an index: the chunks, or else the items themselves."""
        return self.chunks or self

    def for_modality(self, modality: Modality | None) -> EmbeddingSet:
        """Return the vectors of one modality without queries, by default the items' own. Raises KeyError when there are none."""
        if modality in (None, self.modality):
            return self.without_queries()
        if self.captions is None:
            raise KeyError(modality)
        return self.captions

    def without_queries(self) -> EmbeddingSet:
        """Return the items' vectors alone, whose digest does not depend on queries and judgements."""
        if self.items_digest is None:
            return self
        files = self.files[: self.items_files]
        no_queries = {"query_sets": (), "items_digest": None, "items_files": None}
        return self.model_copy(update={"digest": self.items_digest, "files": files} | no_queries)


class EncodedQueries(FrozenModel):
    """The vectors of one set of queries, with the judgements."""

    name: str = Field(description="empty for the main set")
    embeddings: EmbeddingSet = Field(description="all on the query side; keys are query ids")
    image_root: str | None
    judgements: FileRef | None
    is_pairs: bool = Field(default=False, description="made from the images and captions of the data set")
    counts: dict[str, int]

    def name_file(self, stem: str) -> str:
        """Return the name of one of the set's files in a snapshot: `queries.parquet`, or with the set's name `queries-NAME.parquet`."""
        return f"{stem}-{self.name}.parquet" if self.name else f"{stem}.parquet"


class Evaluation(Record):
    """The metrics of an index, and the files behind them."""

    shards: str
    relevance_source: Literal["label", "pairs", "judgements"] | None = Field(description="what makes an item relevant to a query")
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
    set_ground_truths: tuple[FileRef, ...] = Field(
        default=(), exclude_if=lambda refs: not refs, description="those of further sets of queries"
    )


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
