"""The jobs and results exchanged with the encoding process. They cross a pipe, so they are small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.embedding_store import StorageDtype
from indexmill.storage.onnx_exports import ExportSettings
from indexmill.storage.records import Modality, Precision, Role, Runtime


@dataclass(frozen=True)
class ModelSpec:
    """The encoder to load, its precision, its modality, what texts are encoded as, and what runs it."""

    config: EncoderConfig
    precision: Precision
    modality: Modality
    role: Role = "document"
    runtime: Runtime = "torch"


@dataclass(frozen=True, kw_only=True)
class EncodeChunk:
    """Encode one chunk of a plan.

    Attributes:
        model: The encoder.
        plan: The table of missing contents (`EmbeddingStore.write_encode_plan`).
        number: The chunk.
        image_root: The folder that image paths are relative to; None for texts.
        part: The Parquet file to write the vectors to.
        rejected: The Parquet file to write contents without a usable vector to.
        temp_dir: The folder for DuckDB's temporary files.
        storage_dtype: The number format of the stored vectors.
        batch_size: Items per forward pass; None: find the fastest; 0: the encoder's own.
        compares_runtimes: With no batch size, whether to find the faster runtime, too.
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
    compares_runtimes: bool = False


@dataclass(frozen=True)
class ComparePrecision:
    """Encode the rows of the table `sample` in float32 and in the device's fastest precision.

    batch_size: As in `EncodeChunk`.
    """

    model: ModelSpec
    sample: str
    image_root: str | None
    batch_size: int | None = 0


@dataclass(frozen=True)
class LoadModel:
    """Load a model, to check that it can be loaded."""

    model: ModelSpec


@dataclass(frozen=True)
class Preload:
    """Import an encoder's library, and load a model if one is given, ahead of the next job. The only job without an answer."""

    config: EncoderConfig
    model: ModelSpec | None = None


@dataclass(frozen=True)
class TimeQueries:
    """Encode the rows of the table `sample` one at a time, as queries arrive."""

    model: ModelSpec
    sample: str
    image_root: str | None


@dataclass(frozen=True)
class ExportEncoder:
    """Export an encoder to ONNX, and compare the export with the encoder on the rows of the table `sample`.

    image_root: As in `EncodeChunk`.
    """

    model: ModelSpec
    sample: str
    image_root: str | None
    graph_path: str
    tokenizer_path: str


class Progress(NamedTuple):
    """How many more items are finished, and the current batch size."""

    items: int
    batch_size: int


class ChunkResult(NamedTuple):
    """The result of encoding a chunk.

    Attributes:
        vectors: Rows in the part.
        rejects: Rows in the rejected file.
        seconds: Without loading the model.
        batch_size: The last one used.
        runtime: What ran the model.
        peak_bytes: The largest resident size of the process so far.
    """

    vectors: int
    rejects: int
    seconds: float
    batch_size: int
    runtime: Runtime
    peak_bytes: int


class PrecisionComparison(NamedTuple):
    """How the device's fastest precision (`tried`) agrees with float32. If it is float32, both scores are 1."""

    tried: Precision
    items: int
    mean_cosine: float
    overlap_at_10: float
    passes: bool


class LoadResult(NamedTuple):
    """The model was loaded."""


class QueryLatency(NamedTuple):
    """Milliseconds to encode one query, by metric (`indexmill.tasks.metrics.latency.measure_encode_latency`)."""

    metrics: dict[str, float]


class ExportResult(NamedTuple):
    """The result of an export.

    Attributes:
        dim: Length of the vectors.
        settings: How items are prepared for the graph.
        compared: Number of items encoded by both the export and the encoder.
        min_cosine: The lowest `compute_min_cosine` of their vectors.
    """

    dim: int
    settings: ExportSettings
    compared: int
    min_cosine: float


Job = EncodeChunk | ComparePrecision | LoadModel | TimeQueries | ExportEncoder
JobResult = ChunkResult | PrecisionComparison | LoadResult | QueryLatency | ExportResult
