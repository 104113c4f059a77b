"""The encoding process: reads jobs from a socket on standard input, and sends back progress and one result or error per job.

Only this process imports torch and holds the model. Its memory is released when it ends, and if the kernel kills it for using too much,
the build survives."""

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

from indexmill.storage import parquet
from indexmill.storage.embedding_store import REJECTED_SCHEMA, EmbeddingPartWriter, open_part
from indexmill.storage.errors import IndexmillError
from indexmill.tasks.encoding import Encoder, get_encoder_class, load_encoder
from indexmill.tasks.encoding.base import encode_items
from indexmill.tasks.encoding.onnx import OnnxTextEncoder
from indexmill.tasks.encoding.precision import compute_agreement, compute_min_cosine, find_fastest_precision, passes
from indexmill.tasks.encoding.protocol import (
    ChunkResult,
    ComparePrecision,
    EncodeChunk,
    ExportResult,
    ExportTextEncoder,
    Job,
    JobResult,
    LoadModel,
    LoadResult,
    ModelSpec,
    PrecisionComparison,
    PreloadLibrary,
    Progress,
    QueryLatency,
    TimeQueries,
)
from indexmill.tasks.encoding.row_batches import EncodedWindow, ItemRow, encode_rows, find_fastest_batch_size, preprocess_windows
from indexmill.tasks.metrics.latency import measure_encode_latency

BATCH_SEARCH_ITEMS = 256  # items, at most, that the search for a batch size may use


def main() -> None:
    """Do jobs until the other side closes."""
    connection: Connection = Connection(sys.stdin.fileno())
    threading.Thread(target=_exit_on_hangup, args=(connection.fileno(),), daemon=True).start()
    models = ModelCache()
    try:
        while True:
            job: Job | PreloadLibrary = connection.recv()
            if isinstance(job, PreloadLibrary):
                with suppress(ImportError):  # the next job, which has an answer, says so
                    get_encoder_class(job.config)
            else:
                connection.send(_run_job(job, models, connection.send))
    except (EOFError, ConnectionError):
        return


def _exit_on_hangup(descriptor: int) -> None:
    """End this process when the other side hangs up, even in the middle of a long batch."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always told
    poll.poll()
    os._exit(1)


class ModelCache:
    """The model in use: loading another lets go of it first."""

    def __init__(self) -> None:
        self._name: ModelSpec | None = None
        self._encoder: Encoder | None = None

    def __call__(self, name: ModelSpec) -> Encoder:
        """The encoder of that side, loaded unless it is at hand."""
        if self._encoder is None or self._name != name:
            self._encoder = None
            gc.collect()
            self._encoder, self._name = load_modality_encoder(name), name
        return self._encoder


def load_modality_encoder(name: ModelSpec) -> Encoder:
    """Load a model and take the side that encodes the modality."""
    encoder = load_encoder(name.config, name.precision)
    return encoder if encoder.modality == name.modality else encoder.text_encoder  # type: ignore[attr-defined]


def _run_job(job: Job, models: ModelCache, send: Callable[[Progress], None]) -> JobResult | Exception:
    try:
        match job:
            case EncodeChunk():
                return _encode_chunk(job, models(job.model), send)
            case ComparePrecision():
                return _compare_precisions(job, models)
            case LoadModel():
                return LoadResult(models(job.model).dim)
            case TimeQueries():
                return QueryLatency(_time_queries(job, models(job.model)))
            case ExportTextEncoder():
                return _export_text_encoder(job, models(job.model))
    except (EOFError, BrokenPipeError):
        raise
    except IndexmillError as problem:
        return problem
    except Exception as problem:
        return RuntimeError(f"{type(problem).__name__}: {problem}"[:2000])  # the exception's own class may not cross the pipe


def _encode_chunk(job: EncodeChunk, encoder: Encoder, send: Callable[[Progress], None]) -> ChunkResult:
    if job.batch_size is None:
        set_fastest_batch_size(encoder, _read_chunk(job, limit=BATCH_SEARCH_ITEMS), job.image_root)
    elif job.batch_size:
        _set_batch_size(encoder, job.batch_size)
    start, rejects = time.perf_counter(), 0

    def advance(items: int) -> None:
        send(Progress(items, encoder.batch_size))

    with open_part(Path(job.part), encoder.dim, job.storage_dtype) as part, parquet.open_writer(Path(job.rejected), REJECTED_SCHEMA) as rejected:
        for block in encode_rows(encoder, _read_chunk(job), job.image_root, advance):
            _write_window(block, part)
            rejected.write([_make_reject(block.rows[row], *problem) for row, problem in block.issues.items()])
            rejects += len(block.issues)
    return ChunkResult(part.rows, rejects, time.perf_counter() - start, encoder.batch_size, _get_peak_bytes())


def set_fastest_batch_size(encoder: Encoder, rows: Iterator[ItemRow], image_root: str | None) -> None:
    """Set the batch size that is fastest for these rows."""
    sample = [item for _, window in preprocess_windows(encoder, rows, image_root) for item in window]
    _set_batch_size(encoder, find_fastest_batch_size(encoder, sample))


def _set_batch_size(encoder: Encoder, size: int) -> None:
    encoder.window = max(size, encoder.window // encoder.batch_size * size)
    encoder.batch_size = size


def _read_chunk(job: EncodeChunk, limit: int | None = None) -> Iterator[ItemRow]:
    where = f"FROM {parquet.scan_sql(Path(job.plan))} WHERE chunk = {job.number} ORDER BY content_digest"
    with parquet.query(where + (f" LIMIT {limit}" if limit else ""), temp_dir=Path(job.temp_dir)) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _write_window(block: EncodedWindow, part: EmbeddingPartWriter) -> None:
    sound = [row for row in range(len(block.rows)) if row not in block.issues]
    if sound:
        ids, digests = ([block.rows[row][name] for row in sound] for name in ("item_id", "content_digest"))
        part.write(ids, digests, block.encoded.truncated[sound], block.encoded.vectors[sound])


def _make_reject(row: ItemRow, reason: str, message: str) -> ItemRow:
    return {"content_digest": row["content_digest"], "reason": reason, "message": message}


def _compare_precisions(job: ComparePrecision, models: ModelCache) -> PrecisionComparison:
    tried = find_fastest_precision()
    if tried == "float32":
        return PrecisionComparison(tried, 0, 1.0, 1.0, True)
    exact, fast = (
        _encode_sample(models(ModelSpec(job.model.config, precision, job.model.modality)), job) for precision in ("float32", tried)
    )
    sound = np.isfinite(exact).all(axis=1) & np.isfinite(fast).all(axis=1)
    found = compute_agreement(exact[sound], fast[sound])
    return PrecisionComparison(tried, found.items, found.mean_cosine, found.overlap_at_10, passes(found))


def _encode_sample(encoder: Encoder, job: ComparePrecision) -> np.ndarray:
    if job.batch_size:
        _set_batch_size(encoder, job.batch_size)
    rows = (row for batch in parquet.read_batches(Path(job.sample)) for row in batch.to_pylist())
    return np.concatenate([block.encoded.vectors for block in encode_rows(encoder, rows, job.image_root, _ignore_progress)])


def _time_queries(job: TimeQueries, encoder: Encoder) -> dict[str, float]:
    """Each query as it comes: opened, prepared and encoded alone."""
    rows = [row for batch in parquet.read_batches(Path(job.sample)) for row in batch.to_pylist()]

    def encode(queries: Sequence[ItemRow]) -> np.ndarray:
        return np.concatenate([block.encoded.vectors for block in encode_rows(encoder, iter(queries), job.image_root, _ignore_progress)])

    return measure_encode_latency(encode, rows, singles=len(rows))


def _export_text_encoder(job: ExportTextEncoder, encoder: Encoder) -> ExportResult:
    """Each text alone, as queries come, and all together, so that some are padded."""
    prompt = encoder.export(Path(job.graph), Path(job.tokenizer))  # type: ignore[attr-defined]
    exported = OnnxTextEncoder(Path(job.graph), Path(job.tokenizer), prompt, encoder.dim)
    texts = [row["text"] for batch in parquet.read_batches(Path(job.sample)) for row in batch.to_pylist()]
    expected = encode_items(encoder, texts).vectors
    least = min(compute_min_cosine(expected, exported.encode(texts, size).vectors) for size in (1, len(texts)))
    return ExportResult(encoder.dim, prompt, len(texts), least)


def _ignore_progress(items: int) -> None:
    """Progress that nobody watches."""


def _get_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
