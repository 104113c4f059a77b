"""The records of an index while it is built: trained, sharded, tuned.

Like those of `storage.records`: frozen, plain JSON.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from indexmill.storage.records import FileRef, FrozenModel, Record, Rerank, Side


class TrainedIndex(Record):
    """An empty FAISS index, trained on a sample of the database side or reused from an earlier build."""

    embeddings: str = Field(description="digest of the embedding set that it was trained on")
    recipe: dict[str, Any] = Field(description="the encoder and the settings that it was trained for")
    factory: str
    metric: str
    dim: int
    lists: int
    sampled: int
    index: FileRef
    rows: FileRef = Field(description="the database side at training (item_id, content_digest)")
    baseline: dict[str, float] = Field(description="drift signals at training")
    signals: dict[str, float] = Field(description="drift signals today, and their distances from the baseline")
    reason: str = Field(description="why it was trained, or why it was reused")
    fast_scan: bool = Field(default=False, description="built by indexmill.tasks.indexing.soar instead of the FAISS factory")
    spill: bool = Field(default=False, description="every vector is assigned to two lists (fast_scan only)")
    rerank: Rerank = Field(default="none", description="which vectors candidates are re-ranked with")
    bounds: FileRef | None = Field(default=None, description="the range of each dimension, for sq8")
    choice: tuple[dict[str, Any], ...] = Field(default=(), description="the candidates that factory `auto` compared")


class Shard(FrozenModel):
    """One filled FAISS file."""

    side: Side
    number: int
    count: int
    key: str = Field(description="digest of the training and of the rows in the shard")
    trained: str
    index: FileRef
    rows: FileRef = Field(description="the items in the shard (item_id, content_digest), by ascending id")
    vectors: dict[str, FileRef] = Field(
        default_factory=dict,
        description="suffix (ids.npy, vectors.npy, …) -> file with the vectors for re-ranking; empty without re-ranking",
    )

    @property
    def files(self) -> tuple[FileRef, ...]:
        """All files of the shard."""
        return (self.index, self.rows, *self.vectors.values())


class IndexShards(Record):
    """The database side as FAISS shards. `built`, `updated` and `reused` count them by where they came from."""

    trained: str
    shards: tuple[Shard, ...]
    built: int
    updated: int
    reused: int


class SearchParams(FrozenModel):
    """How to search an index."""

    nprobe: int | None = Field(default=None, description="lists to visit (IVF)")
    ef_search: int | None = Field(default=None, description="graph candidates to visit (HNSW)")
    rerank_candidates: int | None = Field(default=None, description="candidates to re-rank")
    spill: bool = Field(default=False, description="every item is in two lists, so searches must drop duplicates")

    def __str__(self) -> str:
        """The parameters that are set, as in `nprobe 16, rerank_candidates 40`."""
        values = self.model_dump(exclude={"spill"}, exclude_none=True)
        return ", ".join(f"{name} {value}" for name, value in values.items())


class TunedIndex(Record):
    """The search parameters of the shards, and how they were chosen."""

    shards: str
    params: SearchParams
    target: float | None = Field(description="recall@10 to reach")
    met: bool | None = Field(description="whether recall_bound reaches the target")
    recall: float | None = Field(description="mean recall@10 on the tuning queries")
    recall_bound: float | None = Field(description="lower 95 % confidence bound of recall@10")
    cpu_ms_per_query: float | None
    latency_met: bool | None
    reason: str
    ground_truth: FileRef | None = Field(default=None, description="the exact neighbors of the tuning queries, for the next build")
