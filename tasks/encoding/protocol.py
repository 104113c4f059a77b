"""The jobs and results exchanged with the encoding process. They cross a pipe, so they are small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.embedding_store import StorageDtype
from indexmill.storage.records import Modality, Precision


@dataclass(frozen=True)
class ModelSpec:
    """Which encoder, in which precision, and which of its sides: images or texts."""

    config: EncoderConfig
    precision: Precision
    modality: Modality


@dataclass(frozen=True)
class EncodeChunk:
    """Encode shard `number` of the table `plan` into the Parquet file `part`, and write `rejected` for what cannot be searched.

    base: the folder of images; None for texts. batch_size: None asks for the fastest to be found, 0 for the encoder's own.
    """

    model: ModelSpec
    plan: str
    number: int
    image_root: str | None
    part: str
    rejected: str
    temp_dir: str
    storage_dtype: StorageDtype
    batch_size: int | None


@dataclass(frozen=True)
class ComparePrecision:
    """Encode the rows of the table `sample` in float32 and in the fastest precision of the device. batch_size: as for EncodeShard."""

    model: ModelSpec
    sample: str
    image_root: str | None
    batch_size: int | None = 0


@dataclass(frozen=True)
class LoadModel:
    """Load a model, to see that it can be."""

    model: ModelSpec


@dataclass(frozen=True)
class PreloadLibrary:
    """Import the library of an encoder, so that the next job need not wait for it. It is the one job without an answer."""

    config: EncoderConfig


@dataclass(frozen=True)
class TimeQueries:
    """Encode the rows of the table `sample` one by one, as queries come."""

    model: ModelSpec
    sample: str
    image_root: str | None


@dataclass(frozen=True)
class ExportTextEncoder:
    """Write an encoder of texts as the files `graph` and `tokenizer`, and compare both over the rows of the table `sample`."""

    model: ModelSpec
    sample: str
    graph: str
    tokenizer: str


class Progress(NamedTuple):
    """So many more items are done, at this batch size."""

    items: int
    batch_size: int


class ChunkResult(NamedTuple):
    """vectors, rejects: rows written; seconds without the model's loading; peak_bytes: the process's largest resident size so far."""

    vectors: int
    rejects: int
    seconds: float
    batch_size: int
    peak_bytes: int


class PrecisionComparison(NamedTuple):
    """tried: the fastest precision here; when that is float32, nothing was compared and the rest is 1."""

    tried: Precision
    items: int
    mean_cosine: float
    overlap_at_10: float
    passes: bool


class LoadResult(NamedTuple):
    """dim: the length of its vectors."""

    dim: int


class QueryLatency(NamedTuple):
    """Milliseconds to encode one query, by name (`indexmill.tasks.metrics.latency.measure_encode_latency`)."""

    metrics: dict[str, float]


class ExportResult(NamedTuple):
    """least_cosine: of the vectors that graph and model give a text, over `compared_texts` texts of all lengths that there are."""

    dim: int
    prompt: str
    compared_texts: int
    min_cosine: float


Job = EncodeChunk | ComparePrecision | LoadModel | TimeQueries | ExportTextEncoder
JobResult = ChunkResult | PrecisionComparison | LoadResult | QueryLatency | ExportResult
