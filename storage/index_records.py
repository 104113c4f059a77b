"""The records of an index on its way: trained, sharded, tuned. As those of `indexmill.storage.records`, frozen and JSON-simple."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from indexmill.storage.records import FileRef, FrozenModel, Record, Rerank, Side


class TrainedIndex(Record):
    """An empty FAISS index, trained on a sample of the database side, and why it is a new one or that of an earlier night.

    embeddings: what it was trained on. recipe: encoder and settings that it stands for. rows: the database side then (item_id,
    content_digest).
    baseline: what drift is measured against, as it was at training. signals: the same now, and how far it has moved.
    fast_scan: the index is made by `indexmill.tasks.indexing.soar` and not by FAISS's factory; spill: then, whether items lie in two lists.
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


class Shard(FrozenModel):
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
    vectors: dict[str, FileRef] = Field(default_factory=dict)

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


class SearchParams(FrozenModel):
    """How an index is to be searched: lists or graph candidates to look at, candidates to re-rank, and whether items may come twice."""

    nprobe: int | None = None
    ef_search: int | None = None
    rerank_candidates: int | None = None
    spill: bool = False

    def __str__(self) -> str:
        """The parameters that are set, as `nprobe 16, rerank_candidates 40`."""
        values = self.model_dump(exclude={"spill"}, exclude_none=True)
        return ", ".join(f"{name} {value}" for name, value in values.items())


class TunedIndex(Record):
    """The setting that the shards are searched with, and how it was found.

    recall: recall@10 on the queries tuned with; recall_bound: what it surely is (95 %). met: whether that is at the target.
    """

    shards: str
    params: SearchParams
    target: float | None
    met: bool | None
    recall: float | None
    recall_bound: float | None
    cpu_ms_per_query: float | None
    latency_met: bool | None
    reason: str
