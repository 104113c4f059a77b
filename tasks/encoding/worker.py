"""The encoding process: reads jobs from a socket on standard input; sends progress and one result or error per job.

Only this process imports torch and holds the model. Its memory is released when it ends, and the build survives
if the kernel kills it for using too much."""

from __future__ import annotations

import gc
import os
import resource
import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.embedding_store import REJECTED_SCHEMA, EmbeddingPartWriter, open_part
from indexmill.storage.errors import IndexmillError, InputError
from indexmill.tasks.encoding import Encoder, get_encoder_class, has_precisions, load_encoder
from indexmill.tasks.encoding.base import SupportsOnnxExport, SupportsTexts
from indexmill.tasks.encoding.onnx_encoders import load_onnx_encoder
from indexmill.tasks.encoding.precision import compute_agreement, compute_min_cosine, find_fastest_precision, passes
from indexmill.tasks.encoding.protocol import (
    ChunkResult,
    ComparePrecision,
    EncodeChunk,
    ExportEncoder,
    ExportResult,
    Job,
    JobResult,
    LoadModel,
    LoadResult,
    ModelSpec,
    PrecisionComparison,
    Preload,
    Progress,
    QueryLatency,
    TimeQueries,
)
from indexmill.tasks.encoding.row_batches import (
    EncodedWindow,
    ItemRow,
    encode_rows,
    preprocess_rows,
    set_batch_size,
    set_fastest_batch_size,
)
from indexmill.tasks.encoding.runtimes import export_encoder, find_faster_encoder, get_runtime, is_on_cpu
from indexmill.tasks.metrics.latency import measure_encode_latency
from indexmill.tasks.progress import ignore_progress

BATCH_SEARCH_ITEMS = 256  # the most items that the search for the fastest batch size may use

SendProgress = Callable[[Progress], None]


def main() -> None:
    """Run jobs until the other process closes the connection."""
    connection: Connection = Connection(sys.stdin.fileno())
    threading.Thread(target=_exit_on_hangup, args=(connection.fileno(),), daemon=True).start()
    models = ModelCache()
    try:
        while True:
            job: Job | Preload = connection.recv()
            if isinstance(job, Preload):
                with suppress(Exception):  # the next job fails in the same way, and reports the error
                    models.get(job.model) if job.model else get_encoder_class(job.config)
            else:
                connection.send(_run_job(job, models, connection.send))
    except (EOFError, ConnectionError):
        return


def _exit_on_hangup(descriptor: int) -> None:
    """End this process when the other one hangs up, even in the middle of a long batch."""
    poll = select.poll()
    poll.register(descriptor, 0)  # poll always reports a hang-up
    poll.poll()
    os._exit(1)


class ModelCache:
    """Holds the model in use. Releases it before it loads another one."""

    def __init__(self) -> None:
        self._spec: ModelSpec | None = None
        self._encoder: Encoder | None = None

    def get(self, spec: ModelSpec, temp_dir: str | None = None) -> Encoder:
        """Return the encoder, loading it if it is not the one in use.

        Args:
            spec: The model.
            temp_dir: The folder for temporary files of another runtime than torch.
        """
        if self._encoder is None or self._spec != spec:
            self._encoder = None
            gc.collect()
            encoder = load_modality_encoder(spec)
            if spec.runtime == "onnx":
                encoder = export_encoder(encoder, Path(temp_dir or tempfile.gettempdir())) or encoder
            self._encoder, self._spec = encoder, spec
        return self._encoder

    def find_faster(self, job: EncodeChunk, inputs: Sequence[Any]) -> Encoder:
        """Keep the model of a job with its faster runtime and fastest batch size, and return it."""
        encoder = find_faster_encoder(self.get(job.model), inputs, Path(job.temp_dir))
        self._encoder, self._spec = encoder, replace(job.model, runtime=get_runtime(encoder))
        return encoder


def load_modality_encoder(spec: ModelSpec) -> Encoder:
    """Load a model and return its encoder for the modality."""
    encoder = load_encoder(spec.config, spec.precision, spec.role)
    if encoder.modality == spec.modality:
        return encoder
    if not isinstance(encoder, SupportsTexts):
        raise TypeError(f"{spec.config.kind} does not encode {spec.modality}s")
    return encoder.text_encoder


def _run_job(job: Job, models: ModelCache, send: SendProgress) -> JobResult | Exception:
    try:
        match job:
            case ComparePrecision():
                return _compare_precisions(job, models)
            case EncodeChunk():
                return _encode_chunk(job, models, send)
            case LoadModel():
                models.get(job.model)
                return LoadResult()
            case TimeQueries():
                return QueryLatency(_time_queries(job, models.get(job.model)))
            case ExportEncoder():
                return _export_encoder(job, models.get(job.model))
    except (EOFError, BrokenPipeError):
        raise
    except IndexmillError as error:
        return error
    except Exception as error:
        # The other process may not have the class of the error.
        return RuntimeError(f"{type(error).__name__}: {error}"[:2000])


def _encode_chunk(job: EncodeChunk, models: ModelCache, send: SendProgress) -> ChunkResult:
    encoder = _prepare_encoder(job, models)
    start, rejects = time.perf_counter(), 0

    def advance(items: int) -> None:
        send(Progress(items, encoder.batch_size))

    with (
        open_part(Path(job.part), encoder.dim, job.storage_dtype) as part,
        parquet.open_writer(Path(job.rejected), REJECTED_SCHEMA) as rejected,
    ):
        for window in encode_rows(encoder, _read_chunk(job), job.image_root, advance):
            _write_window(window, part)
            rejected.write([_make_reject(window.rows[row], *reason) for row, reason in window.issues.items()])
            rejects += len(window.issues)
    return ChunkResult(part.rows, rejects, time.perf_counter() - start, encoder.batch_size, get_runtime(encoder), _get_peak_bytes())


def _prepare_encoder(job: EncodeChunk, models: ModelCache) -> Encoder:
    """Return the encoder of a job with its batch size set, and with the faster runtime if the job asks for a comparison."""
    encoder = models.get(job.model, job.temp_dir)
    if job.batch_size is None:
        inputs = preprocess_rows(encoder, _read_chunk(job, limit=BATCH_SEARCH_ITEMS), job.image_root)
        if job.compares_runtimes and is_on_cpu():
            return models.find_faster(job, inputs)
        set_fastest_batch_size(encoder, inputs)
    elif job.batch_size:
        set_batch_size(encoder, job.batch_size)
    return encoder


def _read_chunk(job: EncodeChunk, limit: int | None = None) -> Iterator[ItemRow]:
    sql = f"FROM {parquet.scan_sql(Path(job.plan))} WHERE chunk = {job.number} ORDER BY content_digest"
    with parquet.query(sql + (f" LIMIT {limit}" if limit else ""), temp_dir=Path(job.temp_dir)) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _write_window(window: EncodedWindow, part: EmbeddingPartWriter) -> None:
    valid_rows = [row for row in range(len(window.rows)) if row not in window.issues]
    if valid_rows:
        item_ids, digests = ([window.rows[row][name] for row in valid_rows] for name in ("item_id", "content_digest"))
        part.write(item_ids, digests, window.encoded.truncated[valid_rows], window.encoded.vectors[valid_rows])


def _make_reject(row: ItemRow, reason: str, message: str) -> ItemRow:
    return {"content_digest": row["content_digest"], "reason": reason, "message": message}


def _compare_precisions(job: ComparePrecision, models: ModelCache) -> PrecisionComparison:
    fast_precision = find_fastest_precision() if has_precisions(job.model.config) else "float32"
    if fast_precision == "float32":
        return PrecisionComparison(fast_precision, items=0, mean_cosine=1.0, overlap_at_10=1.0, passes=True)
    float32_vectors, fast_vectors = (
        _encode_sample(models.get(replace(job.model, precision=precision)), job) for precision in ("float32", fast_precision)
    )
    finite = np.isfinite(float32_vectors).all(axis=1) & np.isfinite(fast_vectors).all(axis=1)
    agreement = compute_agreement(float32_vectors[finite], fast_vectors[finite])
    return PrecisionComparison(fast_precision, agreement.items, agreement.mean_cosine, agreement.overlap_at_10, passes(agreement))


def _encode_sample(encoder: Encoder, job: ComparePrecision) -> np.ndarray:
    if job.batch_size:
        set_batch_size(encoder, job.batch_size)
    return _encode_to_array(encoder, job.image_root, _read_sample(job.sample))


def _time_queries(job: TimeQueries, encoder: Encoder) -> dict[str, float]:
    """Time each query as it would arrive: read, preprocessed and encoded alone."""
    rows = list(_read_sample(job.sample))
    return measure_encode_latency(partial(_encode_to_array, encoder, job.image_root), rows, singles=len(rows))


def _encode_to_array(encoder: Encoder, image_root: str | None, rows: Iterable[ItemRow]) -> np.ndarray:
    return np.concatenate([window.encoded.vectors for window in encode_rows(encoder, iter(rows), image_root, ignore_progress)])


def _read_sample(path: str) -> Iterator[ItemRow]:
    for batch in parquet.read_batches(Path(path)):
        yield from batch.to_pylist()


def _export_encoder(job: ExportEncoder, encoder: Encoder) -> ExportResult:
    """Export the encoder, and compare on items one at a time, like queries, and in batches, which pad texts."""
    if not isinstance(encoder, SupportsOnnxExport):
        raise InputError("this encoder cannot be exported to ONNX", where=f"encoder.kind = {job.model.config.kind}")
    graph_path, tokenizer_path = Path(job.graph_path), Path(job.tokenizer_path)
    settings = encoder.export(graph_path, tokenizer_path)
    exported = load_onnx_encoder(graph_path, tokenizer_path, settings, encoder.dim)
    rows = list(_read_sample(job.sample))
    expected = _encode_to_array(encoder, job.image_root, rows)
    cosines = []
    for size in (1, exported.batch_size):
        exported.batch_size = exported.window = size
        cosines.append(compute_min_cosine(expected, _encode_to_array(exported, job.image_root, rows)))
    return ExportResult(encoder.dim, settings, len(rows), min(cosines))


def _get_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
