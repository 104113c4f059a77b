"""The config of a pipeline. Every section rejects unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from indexmill.configs.datasets import BeirDatasetConfig, DatasetConfig, Queries, SplitName
from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.exports import ExportConfig
from indexmill.configs.targets import TargetName
from indexmill.storage.records import FrozenModel, Rerank


class ValidateConfig(FrozenModel):
    """Which items are rejected. Images are checked against the pixel limits before they are decoded."""

    max_reject_fraction: float = Field(default=0.05, ge=0, le=1, description="stop the build when a larger share of the items is rejected")
    max_pixels: int = Field(default=100_000_000, ge=1, description="largest image in pixels")
    min_side: int = Field(
        default=2, ge=1, description="shortest side of an image in pixels; by default rejects one-pixel lines and tracking pixels"
    )
    max_aspect_ratio: float = Field(default=50, ge=1, description="largest ratio of an image's sides")
    seconds_per_item: float = Field(default=20, gt=0, description="longest time to decode an image")
    max_text_length: int = Field(default=100_000, ge=1, description="longest text in characters")


class SplitConfig(FrozenModel):
    """Which items are held out as queries."""

    mode: Literal["hash", "given", "none"] = Field(
        default="hash",
        description="`hash`: a share of the content groups, drawn by a keyed hash; `given`: the data set's own splits; `none`: no queries,"
        " so nothing is measured",
    )
    query_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of the content groups on the query side (mode hash)")
    query_splits: tuple[str, ...] = Field(
        default=("test", "validation", "valid", "val", "dev"), description="the data set's splits on the query side (mode given)"
    )
    seed: int = Field(default=0, description="key of the hash (mode hash)")
    leaks: Literal["exclude", "keep"] = Field(
        default="exclude", description="whether metrics leave out queries that are nearly equal to an item of the database"
    )
    leak_distance: int = Field(
        default=12,
        ge=0,
        le=64,
        description="images are nearly equal when at most this many of the 576 bits of their perceptual hashes differ, which hold"
        " structure, color and shade; texts when they differ only in case, sentence punctuation and spacing",
    )


class DriftConfig(FrozenModel):
    """When the index is trained again. Each signal is compared with its value at training."""

    max_changed: float = Field(default=0.5, gt=0, le=1, description="largest share of contents that were added or removed")
    max_imbalance: float = Field(default=1.25, ge=1, description="largest factor by which the imbalance of the lists grew")
    max_error_rise: float = Field(default=0.1, ge=0, description="largest relative rise of the mean quantization error")
    max_recall_drop: float = Field(default=0.01, ge=0, le=1, description="largest drop of the mean recall@10")
    sample: int = Field(default=10_000, ge=100, description="vectors that the signals are measured on")
    queries: int = Field(default=1000, ge=10, description="queries that the recall is measured with")


class IndexConfig(FrozenModel):
    """The FAISS index, its search and its shards."""

    modality: Literal["image", "text"] | None = Field(
        default=None, description="for images with captions: which of the two the index holds; by default the modality of the items"
    )
    factory: str = Field(
        default="Flat",
        min_length=1,
        description="a FAISS factory string, or `auto`: the fastest index that reaches recall_target within memory_budget and"
        " latency_budget_ms. From 16,384 inverted lists on, they are found through an HNSW graph (as IVF65536_HNSW32)",
    )
    metric: Literal["cosine", "ip", "l2"] = Field(default="cosine", description="similarity: cosine, inner product or Euclidean distance")
    shards: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        default="auto", description="FAISS files of the database side; `auto` fills shards of at most shard_bytes one after another"
    )
    shard_bytes: ByteSize = Field(
        default=ByteSize(256_000_000),
        ge=1,
        description="largest shard with shards: auto; every shard adds to the time of a search, so large indexes want large shards",
    )
    recall_target: float | None = Field(
        default=None, gt=0, lt=1, description="recall@10 to tune the search for; 0.95 with factory `auto`, else no tuning"
    )
    memory_budget: ByteSize | None = Field(default=None, description="memory of the served index, for factory `auto`")
    latency_budget_ms: float | None = Field(default=None, gt=0, description="CPU time per query in milliseconds, for factory `auto`")
    nprobe: int | None = Field(
        default=None, ge=1, description="lists to visit (IVF); without a recall target an eighth of the lists, at least 8"
    )
    ef_search: int | None = Field(default=None, ge=1, description="graph candidates to visit (HNSW); without a recall target 64")
    rerank_candidates: int | None = Field(default=None, ge=1, description="candidates to re-rank")
    rerank: Rerank = Field(
        default="none", description="vectors to re-rank candidates with: sq8 (8 bits per dimension), fp16, exact (float32) or none"
    )
    train_points_per_list: int = Field(default=64, ge=39, le=256, description="training vectors per list")
    train_memory: ByteSize = Field(
        default=ByteSize(1_000_000_000),
        ge=1_000_000,
        description="memory for training: with less than 12 bytes x dimensions x train_points_per_list x lists, fewer vectors are used",
    )
    drift: DriftConfig = DriftConfig()
    seed: int = Field(default=0, description="seed of training and of samples")


class QuerySetConfig(FrozenModel):
    """Further queries or judgements, reported and gated by the name of the set. What is not given is that of `dataset`."""

    queries: Queries | None = Field(default=None, description="as dataset.queries")
    judgements: str | None = Field(default=None, description="as dataset.judgements")
    split: SplitName | None = Field(default=None, description="for source `beir`: another split's judgements")

    @model_validator(mode="after")
    def _require_difference(self) -> QuerySetConfig:
        if not (self.queries or self.judgements or self.split):
            raise ValueError("queries, judgements or split")
        return self


QuerySetName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,30}$")]


class EvaluationConfig(FrozenModel):
    """What is measured, and with how many queries."""

    query_modality: Literal["image", "text"] | None = Field(
        default=None, description="for images with captions: modality of the queries; by default that of the index"
    )
    k: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(default=(1, 5, 10), description="the cut-offs of metrics at k")
    depth: int = Field(default=1000, ge=1, description="results per query that average precision considers, when relevance is known")
    max_queries: int = Field(default=10_000, ge=1, description="evaluate on a seeded sample of at most this many queries")
    relevance_threshold: float | None = Field(
        default=None, description="items of a scored pair with at least this score are relevant to each other; by default labels decide"
    )
    examples: int = Field(default=8, ge=0, le=100, description="example queries in the report, and as many of the best and of the worst")
    encode_latency_queries: int = Field(
        default=20, ge=0, le=1000, description="queries that encoding is timed with, once per encoder and device"
    )
    projection_seconds: float = Field(
        default=20, ge=0, description="approximate time for t-SNE, which determines the number of points; 0: principal components only"
    )
    measures: tuple[TargetName, ...] = Field(
        default=(),
        exclude_if=lambda measures: not measures,
        description="functions of installed Python packages that compute further metrics of the rankings: package.module:NAME, or the name"
        " of an entry point in the group indexmill.measures",
    )
    trec: bool = Field(default=False, description="also write the run and its qrels in trec_eval's format")
    sets: dict[QuerySetName, QuerySetConfig] = Field(
        default_factory=dict,
        exclude_if=lambda value: not value,
        description="name -> further queries or judgements, besides dataset.queries; their metrics are named NAME/METRIC",
    )

    @field_validator("k")
    @classmethod
    def _sort_cutoffs(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if not k:
            raise ValueError("at least one cut-off")
        return tuple(sorted(set(k)))


class GateConfig(FrozenModel):
    """The rules that a build must pass to become live."""

    minimum: dict[str, float] = Field(default_factory=dict, description="metric -> its smallest value")
    maximum: dict[str, float] = Field(default_factory=dict, description="metric -> its largest value")
    maximum_drop: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="metric -> its largest drop below the live snapshot"
    )
    significant_drop: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict,
        description="metric -> level: the metric must not drop with a p-value below this level (paired test over the common queries)",
    )
    minimum_items: int | None = Field(default=None, ge=0, description="smallest number of served items")
    maximum_reject_fraction: float | None = Field(default=None, ge=0, le=1, description="largest share of rejected items")
    maximum_churn: float | None = Field(
        default=None, ge=0, le=1, description="largest mean share of a query's first ten results that differ from the live snapshot's"
    )


class PublishConfig(FrozenModel):
    """What is published, what is kept, and what is rejected."""

    serve: Literal["all", "database"] = Field(default="all", description="whether the published index also holds the query side")
    keep: int = Field(default=3, ge=1, description="published snapshots to keep")
    keep_days: float = Field(default=0, ge=0, description="also keep snapshots younger than this")
    gate: GateConfig = GateConfig()
    export: tuple[ExportConfig, ...] = Field(
        default=(),
        exclude=True,  # in no dump, so in no cache key, digest or manifest
        description="where every published snapshot is exported to; a failed export is tried again by the next build",
    )


class StudyIndexConfig(FrozenModel):
    """One index of a study. It is searched with each of the given parameters, one row each."""

    factory: str = Field(min_length=1, description="as index.factory, `auto` included")
    nprobe: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), description="lists to visit; by default doubling numbers")
    ef_search: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="graph candidates to visit; by default doubling numbers"
    )
    recall_targets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), description="tune the search for these instead; by default three targets for `auto`, none for others"
    )
    rerank_candidates: int | None = Field(default=None, ge=1, description="as index.rerank_candidates")
    rerank: Rerank = Field(default="none", description="as index.rerank")


class StudyConfig(FrozenModel):
    """What `indexmill study` compares. Builds ignore it."""

    encoders: dict[str, EncoderConfig] = Field(
        default_factory=dict, description="name in the tables -> encoder; by default the pipeline's own"
    )
    indexes: tuple[StudyIndexConfig, ...] = Field(
        default=(), description="by default Flat, IVF with two numbers of lists, IVF-PQ, HNSW and `auto`; NumPy brute force is always added"
    )
    max_queries: int = Field(default=1000, ge=1, description="a seeded sample of at most this many queries")
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        exclude_if=lambda dimensions: not dimensions,
        description="compare every encoder with each of these as encoder.dimensions",
    )


class OwnQueriesConfig(FrozenModel):
    """What the queries of a pipeline are read by: the input of the stage `queries`."""

    dataset: DatasetConfig
    sets: dict[str, QuerySetConfig]
    modality: Literal["image", "text"] | None
    limits: ValidateConfig
    leaks: Literal["exclude", "keep"]
    leak_distance: int

    @property
    def by_name(self) -> dict[str, QuerySetConfig]:
        """All sets, each complete; the name of the main one is empty. Queries that source `beir` brings are None."""
        main_split = self.dataset.split if isinstance(self.dataset, BeirDatasetConfig) else None
        main = QuerySetConfig.model_construct(queries=self.dataset.queries, judgements=self.dataset.judgements, split=main_split)
        return {"": main} | {
            name: QuerySetConfig.model_construct(
                queries=entry.queries or main.queries,
                judgements=entry.judgements or (None if entry.queries or entry.split else main.judgements),
                split=None if entry.queries or entry.judgements else entry.split or main.split,
            )
            for name, entry in self.sets.items()
        }


class RunConfig(FrozenModel):
    """Where a build runs its work. This has no influence on results, cache keys or snapshots."""

    runner: Literal["local", "dask", "ray"] = Field(
        default="local",
        description="`local`: the build's own machine; `dask` and `ray`: the workers of a cluster encode, check images, fill shards and"
        " search exactly",
    )
    address: str | None = Field(
        default=None,
        min_length=1,
        description="the cluster: `tcp://HOST:8786` for Dask, `HOST:6379` or `ray://HOST:10001` for Ray; by default one is started on this"
        " machine for the build",
    )
    workers: int | None = Field(
        default=None, ge=1, description="worker processes of a cluster that the build starts; by default one per core"
    )
    gpus_per_task: float = Field(
        default=0, ge=0, description="GPUs that an encoding task reserves on a cluster: Dask's resource `GPU`, Ray's `num_gpus`"
    )

    @model_validator(mode="after")
    def _require_cluster(self) -> RunConfig:
        if self.address is not None and self.runner == "local":
            raise ValueError("run.runner: dask or ray, because run.address is the address of a cluster")
        return self


class PipelineConfig(FrozenModel):
    """One pipeline, which builds one index."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$", description="the pipeline's and the index's name")
    description: str = Field(default="", description="one line for lists and reports")
    dataset: DatasetConfig
    validate_: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    split: SplitConfig = SplitConfig()
    encoder: EncoderConfig
    index: IndexConfig = IndexConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    publish: PublishConfig = PublishConfig()
    study: StudyConfig = StudyConfig()
    run: RunConfig = Field(default=RunConfig(), exclude=True)  # in no dump, so in no cache key, digest or manifest

    def dump_all(self, *, exclude_unset: bool = False) -> dict[str, Any]:
        """Return the whole config as plain values, with `run` and `publish.export`, which other dumps leave out."""
        values = self.model_dump(mode="json", by_alias=True, exclude_unset=exclude_unset)
        if self.publish.export or not exclude_unset:
            exports = [config.model_dump(mode="json", exclude_unset=exclude_unset) for config in self.publish.export]
            values["publish"] = values.get("publish", {}) | {"export": exports}
        return values | {"run": self.run.model_dump(mode="json", exclude_unset=exclude_unset)}

    @property
    def has_extensions(self) -> bool:
        """Whether the pipeline names an encoder, a source or a measure of one's own."""
        return self.encoder.kind == "python" or self.dataset.source == "python" or bool(self.evaluation.measures)

    @property
    def own_queries(self) -> OwnQueriesConfig | None:
        """How the pipeline's own queries are read; None if items are held out instead."""
        if not self.dataset.has_own_queries:
            return None
        return OwnQueriesConfig(
            dataset=self.dataset,
            sets=self.evaluation.sets,
            modality=self.index.modality,
            limits=self.validate_,
            leaks=self.split.leaks,
            leak_distance=self.split.leak_distance,
        )

    @model_validator(mode="before")
    @classmethod
    def _hold_nothing_out_beside_own_queries(cls, values: Any) -> Any:
        """With queries of one's own, the defaults of the split are that no item is held out and that no leaks are looked for."""
        dataset = values.get("dataset") if isinstance(values, dict) else None
        split = values.get("split", {}) if isinstance(values, dict) else None
        if not isinstance(dataset, dict) or not isinstance(split, dict):
            return values
        if dataset.get("queries") is None and dataset.get("source") != "beir":
            return values
        return {**values, "split": {"mode": "none", "leaks": "keep", **split}}

    @model_validator(mode="after")
    def _require_one_kind_of_queries(self) -> PipelineConfig:
        if not self.dataset.has_own_queries:
            if self.evaluation.sets:
                raise ValueError("dataset.queries, or source beir, besides evaluation.sets")
            return self
        if self.split.mode != "none":
            raise ValueError("split.mode: none, because the queries of dataset.queries are measured, and no item is held out")
        if self.evaluation.query_modality:
            raise ValueError("no evaluation.query_modality: dataset.queries decides the modality")
        if self.evaluation.relevance_threshold is not None:
            raise ValueError("no evaluation.relevance_threshold: judgements decide relevance")
        is_beir = isinstance(self.dataset, BeirDatasetConfig)
        for name, entry in self.evaluation.sets.items():
            if entry.split and not is_beir:
                raise ValueError(f"no evaluation.sets.{name}.split: only source beir has splits of judgements")
            if entry.queries == "pairs":
                raise ValueError(f"a file in evaluation.sets.{name}.queries; pairs can only be the main set, dataset.queries")
        return self

    @model_validator(mode="after")
    def _require_normalized_vectors_for_cosine(self) -> PipelineConfig:
        encoders = (self.encoder, *self.study.encoders.values())
        if self.index.metric == "cosine" and not all(encoder.normalize for encoder in encoders):
            raise ValueError("encoder.normalize: true, because index.metric is cosine (or index.metric: ip)")
        return self
