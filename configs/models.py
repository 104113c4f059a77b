"""The config of a pipeline. Unknown keys are refused everywhere; defaults are what a careful user would choose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from indexmill.configs.base import ConfigModel
from indexmill.configs.datasets import DatasetConfig
from indexmill.configs.encoders import EncoderConfig

Rerank = Literal["none", "sq8", "fp16", "exact"]


class ValidateConfig(ConfigModel):
    """max_reject_fraction: past this share of rejected items the build stops.

    max_pixels, min_side, max_aspect_ratio: images that are larger, shorter on a side, or longer for their width are rejected unopened.
    By default an image one pixel wide is: it is a ruled line or a counter of visits, not a picture.
    seconds_per_item: an image that takes longer to open is rejected.
    """

    max_reject_fraction: float = Field(default=0.05, ge=0, le=1)
    max_pixels: int = Field(default=100_000_000, ge=1)
    min_side: int = Field(default=2, ge=1)
    max_aspect_ratio: float = Field(default=50, ge=1)
    seconds_per_item: float = Field(default=20, gt=0)
    max_text_length: int = Field(default=100_000, ge=1)


class SplitConfig(ConfigModel):
    """What is held out as queries.

    mode: `hash` sends query_fraction of the content groups to the query side, by a hash keyed with `seed`; `given` takes the data set's
    own split, where the splits named in query_splits are the query side; `none` puts everything into the database, and then nothing
    can be measured. leaks: whether queries that are nearly an item of the database (images whose perceptual hashes differ in at most
    leak_distance of 256 bits; texts that differ only in case, punctuation and spacing) are left out of the figures.
    """

    mode: Literal["hash", "given", "none"] = "hash"
    query_fraction: float = Field(default=0.2, gt=0, lt=1)
    query_splits: tuple[str, ...] = ("test", "validation", "valid", "val", "dev")
    seed: int = 0
    leaks: Literal["exclude", "keep"] = "exclude"
    leak_distance: int = Field(default=12, ge=0, le=64)


class DriftConfig(ConfigModel):
    """When the last training is no longer good enough. Each signal is compared with its value at training.

    max_changed: share of contents that are not what they were. max_imbalance: how many times as unevenly the lists may be filled.
    max_error_rise: how much further, as a share, vectors may lie from what the index makes of them; max_recall_drop: how much recall@10
    may fall: both on average over the database. sample and probes: vectors and queries that the signals are measured with.
    """

    max_changed: float = Field(default=0.5, gt=0, le=1)
    max_imbalance: float = Field(default=1.25, ge=1)
    max_error_rise: float = Field(default=0.1, ge=0)
    max_recall_drop: float = Field(default=0.01, ge=0, le=1)
    sample: int = Field(default=10_000, ge=100)
    queries: int = Field(default=1000, ge=10)


class IndexConfig(ConfigModel):
    """The FAISS index.

    holds: for images with captions and an encoder of both, which of the two the index holds; by default what the items are. factory: any
    FAISS factory string, or `auto`: the quickest that reaches recall_target within memory_budget (bytes in memory when served) and
    latency_budget_ms (a query, CPU time). recall_target: recall@10 against exact search; 0.95 with `auto`; with another factory the
    search is tuned for it. nprobe and ef_search: how wide to search (IVF lists, HNSW candidates); unset and without a target, an eighth
    of the lists, at least 8, and 64 candidates. candidates: how many are ranked again. shards: files on the database side; `auto` fills
    shards of at most shard_bytes one after another. rerank: whether candidates are ranked again, by vectors in 8 bits a number (sq8), 16
    (fp16) or 32 (exact). train_points_per_list and train_memory: how large the sample of training may be. drift: how long a training is
    used.
    """

    modality: Literal["image", "text"] | None = None
    factory: str = Field(default="Flat", min_length=1)
    metric: Literal["cosine", "ip", "l2"] = "cosine"
    shards: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = "auto"
    shard_bytes: ByteSize = Field(default=ByteSize(256_000_000), ge=1)
    recall_target: float | None = Field(default=None, gt=0, lt=1)
    memory_budget: ByteSize | None = None
    latency_budget_ms: float | None = Field(default=None, gt=0)
    nprobe: int | None = Field(default=None, ge=1)
    ef_search: int | None = Field(default=None, ge=1)
    rerank_candidates: int | None = Field(default=None, ge=1)
    rerank: Rerank = "none"
    train_points_per_list: int = Field(default=64, ge=39, le=256)
    train_memory: ByteSize = Field(default=ByteSize(1_000_000_000), ge=1_000_000)
    drift: DriftConfig = DriftConfig()
    seed: int = 0


class EvaluationConfig(ConfigModel):
    """asks: what the queries are, images or their captions; by default what the index holds. k: the cut-offs. depth: results a query that
    average precision looks at, where items can be judged. max_queries: a seeded sample of so many queries. relevant_from: items are
    relevant when a scored pair of at least this joins them to the query, and not by label. encode_queries: queries whose encoding is timed,
    once for an encoder on a device. projection_seconds: about what t-SNE may take, which says how many points it draws; 0 draws none. trec:
    also write the run and its qrels in trec_eval's form.
    """

    query_modality: Literal["image", "text"] | None = None
    k: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = (1, 5, 10)
    depth: int = Field(default=1000, ge=1)
    max_queries: int = Field(default=10_000, ge=1)
    relevance_threshold: float | None = None
    examples: int = Field(default=8, ge=0, le=100, description="example queries shown in the report, and as many best and worst")
    encode_latency_queries: int = Field(default=20, ge=0, le=1000)
    projection_seconds: float = Field(default=20, ge=0)
    trec: bool = False

    @field_validator("k")
    @classmethod
    def _sort_cutoffs(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if not k:
            raise ValueError("at least one cut-off is needed")
        return tuple(sorted(set(k)))


class GateConfig(ConfigModel):
    """What a build must be to replace the live snapshot.

    minimum, maximum: the least and the largest value of a measure. maximum_drop: the most that a measure may fall below the live
    snapshot's value. significant_drop: a measure may not fall when a paired test over the common queries gives a p-value below the level
    named. minimum_items: items served. maximum_reject_share: rejected items among all. maximum_churn: the mean share of a query's first ten
    results that may be others than in the live snapshot.
    """

    minimum: dict[str, float] = Field(default_factory=dict)
    maximum: dict[str, float] = Field(default_factory=dict)
    maximum_drop: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    significant_drop: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    minimum_items: int | None = Field(default=None, ge=0)
    maximum_reject_fraction: float | None = Field(default=None, ge=0, le=1)
    maximum_churn: float | None = Field(default=None, ge=0, le=1)


class PublishConfig(ConfigModel):
    """serve: whether the published index also holds the query side. keep: published snapshots kept; keep_days: younger ones are kept too.

    gate: what is refused.
    """

    serve: Literal["all", "database"] = "all"
    keep: int = Field(default=3, ge=1)
    keep_days: float = Field(default=0, ge=0)
    gate: GateConfig = GateConfig()


class StudyIndexConfig(ConfigModel):
    """One index of a study. factory: as index.factory, `auto` too. nprobe, ef_search: how widely it is searched, one row each.

    recall_targets: instead of widths, settings tuned for these; by default `auto` is tuned for three, and others are searched at doubling
    widths. candidates and rerank: as in `index`.
    """

    factory: str = Field(min_length=1)
    nprobe: tuple[Annotated[int, Field(ge=1)], ...] = ()
    ef_search: tuple[Annotated[int, Field(ge=1)], ...] = ()
    recall_targets: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    rerank_candidates: int | None = Field(default=None, ge=1)
    rerank: Rerank = "none"


class StudyConfig(ConfigModel):
    """What `indexmill study` compares; no build reads it.

    encoders: by the name that they have in the tables; by default the pipeline's own. indexes: by default Flat, IVF with two numbers of
    lists, IVF-PQ, HNSW and `auto`, sized for the data; brute force in NumPy is always there. max_queries: a seeded sample of so many.
    """

    encoders: dict[str, EncoderConfig] = Field(default_factory=dict)
    indexes: tuple[StudyIndexConfig, ...] = ()
    max_queries: int = Field(default=1000, ge=1)


class PipelineConfig(ConfigModel):
    """One pipeline: one index, rebuilt as a whole."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")
    description: str = ""
    dataset: DatasetConfig
    validate_: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    split: SplitConfig = SplitConfig()
    encoder: EncoderConfig
    index: IndexConfig = IndexConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    publish: PublishConfig = PublishConfig()
    study: StudyConfig = StudyConfig()

    @model_validator(mode="after")
    def _require_normalized_vectors_for_cosine(self) -> PipelineConfig:
        encoders = (self.encoder, *self.study.encoders.values())
        if self.index.metric == "cosine" and not all(encoder.normalize for encoder in encoders):
            raise ValueError("index.metric cosine needs encoder.normalize: true (or choose index.metric: ip)")
        return self
