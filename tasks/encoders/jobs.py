"""What the encoding process is asked to do, and what it answers. All of it crosses a pipe, so it is small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.embedding_parts import Stored
from indexmill.storage.records import Modality, Precision


@dataclass(frozen=True)
class Model:
    """Which encoder, in which precision, and which of its sides: images or texts."""

    config: EncoderConfig
    precision: Precision
    modality: Modality


@dataclass(frozen=True)
class EncodeShard:
    """Encode shard `number` of the table `plan` into the Parquet file `part`, and write `rejected` for what cannot be searched.

    base: the folder of images; None for texts. batch_size: None asks for the fastest to be found, 0 for the encoder's own.
    """

    model: Model
    plan: str
    number: int
    base: str | None
    part: str
    rejected: str
    spill: str
    stored: Stored
    batch_size: int | None


@dataclass(frozen=True)
class ComparePrecision:
    """Encode the rows of the table `sample` in float32 and in the fastest precision of the device. batch_size: as for EncodeShard."""

    model: Model
    sample: str
    base: str | None
    batch_size: int | None = 0


@dataclass(frozen=True)
class LoadModel:
    """Load a model, to see that it can be."""

    model: Model


@dataclass(frozen=True)
class Import:
    """Import the library of an encoder, so that the next job need not wait for it. It is the one job without an answer."""

    config: EncoderConfig


@dataclass(frozen=True)
class TimeQueries:
    """Encode the rows of the table `sample` one by one, as queries come."""

    model: Model
    sample: str
    base: str | None


@dataclass(frozen=True)
class ExportTexts:
    """Write an encoder of texts as the files `graph` and `tokenizer`, and compare both over the rows of the table `sample`."""

    model: Model
    sample: str
    graph: str
    tokenizer: str


class Progress(NamedTuple):
    """So many more items are done, at this batch size."""

    items: int
    batch_size: int


class ShardEncoded(NamedTuple):
    """vectors, rejects: rows written; seconds without the model's loading; peak_bytes: the process's largest resident size so far."""

    vectors: int
    rejects: int
    seconds: float
    batch_size: int
    peak_bytes: int


class Compared(NamedTuple):
    """tried: the fastest precision here; when that is float32, nothing was compared and the rest is 1."""

    tried: Precision
    items: int
    mean_cosine: float
    overlap_at_10: float
    holds: bool


class Loaded(NamedTuple):
    """dim: the length of its vectors."""

    dim: int


class Timed(NamedTuple):
    """Milliseconds to encode one query, by name (`indexmill.tasks.measures.timing.encode_speed`)."""

    figures: dict[str, float]


class Exported(NamedTuple):
    """least_cosine: of the vectors that graph and model give a text, over `compared` texts of all lengths that there are."""

    dim: int
    prompt: str
    compared: int
    least_cosine: float


Job = EncodeShard | ComparePrecision | LoadModel | TimeQueries | ExportTexts
Answer = ShardEncoded | Compared | Loaded | Timed | Exported
