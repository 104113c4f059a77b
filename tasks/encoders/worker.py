"""The process that encodes: a job comes on its standard input, a socket; progress and one answer, or the error instead, go back there.

It alone imports torch and holds the model, so what it takes of memory is given back when it ends, and when the kernel ends it for taking
too much, the build lives on.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from indexmill.storage import tables
from indexmill.storage.embedding_parts import EmbeddingWriter, open_part
from indexmill.storage.embeddings import REJECTED
from indexmill.storage.errors import IndexmillError
from indexmill.tasks.encoders import Encoder, encoder_class, load_encoder
from indexmill.tasks.encoders.batching import fastest_batch
from indexmill.tasks.encoders.encoding import encode_items
from indexmill.tasks.encoders.exported import ExportedTexts
from indexmill.tasks.encoders.jobs import (
    Answer,
    Compared,
    ComparePrecision,
    EncodeShard,
    Exported,
    ExportTexts,
    Import,
    Job,
    Loaded,
    LoadModel,
    Model,
    Progress,
    ShardEncoded,
    Timed,
    TimeQueries,
)
from indexmill.tasks.encoders.precision import agreement, best_precision, holds, least_cosine
from indexmill.tasks.encoders.rows import Block, Row, encode_rows, prepared_windows
from indexmill.tasks.measures.timing import encode_speed

WARM_UP = 256  # items, at most, that the search for a batch size may use


def main() -> None:
    """Do jobs until the other side closes."""
    connection: Connection = Connection(sys.stdin.fileno())
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    models = Models()
    try:
        while True:
            job: Job | Import = connection.recv()
            if isinstance(job, Import):
                with suppress(ImportError):  # the next job, which has an answer, says so
                    encoder_class(job.config)
            else:
                connection.send(_answer(job, models, connection.send))
    except (EOFError, ConnectionError):
        return


def _end_with(descriptor: int) -> None:
    """End this process when the other side hangs up, even in the middle of a long batch."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always told
    poll.poll()
    os._exit(1)


class Models:
    """The model in use: loading another lets go of it first."""

    def __init__(self) -> None:
        self._name: Model | None = None
        self._encoder: Encoder | None = None

    def __call__(self, name: Model) -> Encoder:
        """The encoder of that side, loaded unless it is at hand."""
        if self._encoder is None or self._name != name:
            self._encoder = None
            gc.collect()
            self._encoder, self._name = load_side(name), name
        return self._encoder


def load_side(name: Model) -> Encoder:
    """Load a model and take the side that encodes the modality."""
    encoder = load_encoder(name.config, name.precision)
    return encoder if encoder.modality == name.modality else encoder.texts  # type: ignore[attr-defined]


def _answer(job: Job, models: Models, send: Callable[[Progress], None]) -> Answer | Exception:
    try:
        match job:
            case EncodeShard():
                return _encode(job, models(job.model), send)
            case ComparePrecision():
                return _compare(job, models)
            case LoadModel():
                return Loaded(models(job.model).dim)
            case TimeQueries():
                return Timed(_timed(job, models(job.model)))
            case ExportTexts():
                return _export(job, models(job.model))
    except (EOFError, BrokenPipeError):
        raise
    except IndexmillError as problem:
        return problem
    except Exception as problem:
        return RuntimeError(f"{type(problem).__name__}: {problem}"[:2000])  # the exception's own class may not cross the pipe


def _encode(job: EncodeShard, encoder: Encoder, send: Callable[[Progress], None]) -> ShardEncoded:
    if job.batch_size is None:
        choose_batch(encoder, _planned(job, limit=WARM_UP), job.base)
    elif job.batch_size:
        _set_batch(encoder, job.batch_size)
    start, rejects = time.perf_counter(), 0

    def advance(items: int) -> None:
        send(Progress(items, encoder.batch_size))

    with open_part(Path(job.part), encoder.dim, job.stored) as part, tables.open_writer(Path(job.rejected), REJECTED) as rejected:
        for block in encode_rows(encoder, _planned(job), job.base, advance):
            _write(block, part)
            rejected.write([_reject(block.rows[row], *problem) for row, problem in block.problems.items()])
            rejects += len(block.problems)
    return ShardEncoded(part.rows, rejects, time.perf_counter() - start, encoder.batch_size, _peak_bytes())


def choose_batch(encoder: Encoder, rows: Iterator[Row], base: str | None) -> None:
    """Set the batch size that is fastest for these rows."""
    sample = [item for _, window in prepared_windows(encoder, rows, base) for item in window]
    _set_batch(encoder, fastest_batch(encoder, sample))


def _set_batch(encoder: Encoder, size: int) -> None:
    encoder.window = max(size, encoder.window // encoder.batch_size * size)
    encoder.batch_size = size


def _planned(job: EncodeShard, limit: int | None = None) -> Iterator[Row]:
    where = f"FROM {tables.parquet(Path(job.plan))} WHERE shard = {job.number} ORDER BY content_digest"
    with tables.query(where + (f" LIMIT {limit}" if limit else ""), spill=Path(job.spill)) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _write(block: Block, part: EmbeddingWriter) -> None:
    sound = [row for row in range(len(block.rows)) if row not in block.problems]
    if sound:
        ids, digests = ([block.rows[row][name] for row in sound] for name in ("item_id", "content_digest"))
        part.write(ids, digests, block.encoded.truncated[sound], block.encoded.vectors[sound])


def _reject(row: Row, reason: str, message: str) -> Row:
    return {"content_digest": row["content_digest"], "reason": reason, "message": message}


def _compare(job: ComparePrecision, models: Models) -> Compared:
    tried = best_precision()
    if tried == "float32":
        return Compared(tried, 0, 1.0, 1.0, True)
    exact, fast = (_sampled(models(Model(job.model.config, precision, job.model.modality)), job) for precision in ("float32", tried))
    sound = np.isfinite(exact).all(axis=1) & np.isfinite(fast).all(axis=1)
    found = agreement(exact[sound], fast[sound])
    return Compared(tried, found.items, found.mean_cosine, found.overlap_at_10, holds(found))


def _sampled(encoder: Encoder, job: ComparePrecision) -> np.ndarray:
    if job.batch_size:
        _set_batch(encoder, job.batch_size)
    rows = (row for batch in tables.read_batches(Path(job.sample)) for row in batch.to_pylist())
    return np.concatenate([block.encoded.vectors for block in encode_rows(encoder, rows, job.base, _unseen)])


def _timed(job: TimeQueries, encoder: Encoder) -> dict[str, float]:
    """Each query as it comes: opened, prepared and encoded alone."""
    rows = [row for batch in tables.read_batches(Path(job.sample)) for row in batch.to_pylist()]

    def encode(queries: Sequence[Row]) -> np.ndarray:
        return np.concatenate([block.encoded.vectors for block in encode_rows(encoder, iter(queries), job.base, _unseen)])

    return encode_speed(encode, rows, singles=len(rows))


def _export(job: ExportTexts, encoder: Encoder) -> Exported:
    """Each text alone, as queries come, and all together, so that some are padded."""
    prompt = encoder.export(Path(job.graph), Path(job.tokenizer))  # type: ignore[attr-defined]
    exported = ExportedTexts(Path(job.graph), Path(job.tokenizer), prompt, encoder.dim)
    texts = [row["text"] for batch in tables.read_batches(Path(job.sample)) for row in batch.to_pylist()]
    expected = encode_items(encoder, texts).vectors
    least = min(least_cosine(expected, exported.encode(texts, size).vectors) for size in (1, len(texts)))
    return Exported(encoder.dim, prompt, len(texts), least)


def _unseen(items: int) -> None:
    """Progress that nobody watches."""


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
