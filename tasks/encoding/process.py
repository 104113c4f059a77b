"""Manage the encoding process (`tasks.encoding.worker`): start it on demand, restart it if killed, stop it on exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Pipe
from types import TracebackType
from typing import cast

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.errors import IndexmillError
from indexmill.storage.stopping import raise_if_stopping
from indexmill.tasks.encoding.protocol import (
    ChunkResult,
    ComparePrecision,
    EncodeChunk,
    ExportEncoder,
    ExportResult,
    Job,
    JobResult,
    LoadModel,
    ModelSpec,
    PrecisionComparison,
    Preload,
    Progress,
    QueryLatency,
    TimeQueries,
)
from indexmill.tasks.progress import Advance, ignore_progress

INITIAL_BATCH_SIZE = 32  # halved if the process is killed before it has reported its own


class WorkerLost(IndexmillError, ConnectionError):
    """The encoding process ended before it answered. As a ConnectionError, it is retried like a transient error."""

    def __init__(self, status: int | None) -> None:
        name = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
        super().__init__("the encoding process ended unexpectedly", got=name, next_step="run the build again: finished work is kept")
        self.status = status
        self.killed = status == -signal.SIGKILL

    def __reduce__(self) -> tuple[object, ...]:
        return WorkerLost, (self.status,)  # a cluster's worker sends it to the driver


class EncoderProcess:
    """A process that keeps its model loaded from job to job.

    Args:
        device: The GPU that the process may use, as in CUDA_VISIBLE_DEVICES; by default what this process may use.
    """

    def __init__(self, device: str | None = None) -> None:
        self._environment = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        self._running = False
        self._batch_size = INITIAL_BATCH_SIZE

    def __enter__(self) -> EncoderProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def preload(self, config: EncoderConfig, model: ModelSpec | None = None) -> None:
        """Start the process, and let it import the encoder's library and load the model, without waiting for it."""
        if not self._running:
            self._start()
            with suppress(ConnectionError):  # the next job will notice that the process has ended
                self._connection.send(Preload(config, model))

    def check_model(self, model: ModelSpec) -> None:
        """Load a model. Raises InputError if its weights do not fit."""
        self._run_job(LoadModel(model), ignore_progress)

    def encode(self, job: EncodeChunk, advance: Advance) -> ChunkResult:
        """Encode one chunk. If the kernel kills the process, start again with half the batch size.

        Raises:
            WorkerLost: The process ended otherwise.
            IndexmillError: As raised in the process.
            RuntimeError: Any other error in the process.
        """
        return cast(ChunkResult, self._run_with_smaller_batches(job, advance))

    def compare_precisions(self, job: ComparePrecision) -> PrecisionComparison:
        """Compare the device's fastest precision with float32 on a sample. Raises like `encode`."""
        return cast(PrecisionComparison, self._run_with_smaller_batches(job, ignore_progress))

    def time_queries(self, job: TimeQueries) -> dict[str, float]:
        """Measure how long encoding one query takes, in milliseconds by metric. Raises like `encode`."""
        return cast(QueryLatency, self._run_job(job, ignore_progress)).metrics

    def export(self, job: ExportEncoder) -> ExportResult:
        """Export an encoder to ONNX. Raises like `encode`."""
        return cast(ExportResult, self._run_job(job, ignore_progress))

    def stop(self) -> None:
        """End the process if it is running, and release its memory. The next job starts another one."""
        if self._running:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._running = False

    def _run_with_smaller_batches(self, job: EncodeChunk | ComparePrecision, advance: Advance) -> JobResult:
        """Run a job; if the kernel kills the process for using too much memory, halve the batch size and repeat."""
        while True:
            counter = _ProgressCounter(advance)
            try:
                return self._run_job(job, counter.advance)
            except WorkerLost as error:
                counter.undo()
                if not error.killed or self._batch_size == 1:
                    raise
                self._batch_size //= 2
                job = replace(job, batch_size=self._batch_size)

    def _run_job(self, job: Job, advance: Advance) -> JobResult:
        if not self._running:
            self._start()
        try:
            self._connection.send(job)
            while isinstance(answer := self._connection.recv(), Progress):
                self._batch_size = answer.batch_size
                advance(answer.items)
        except (EOFError, ConnectionError):
            raise_if_stopping("while encoding")  # the signal may have reached both processes
            raise WorkerLost(self._stop_and_get_status()) from None
        if isinstance(answer, Exception):
            raise answer
        return cast(JobResult, answer)

    def _start(self) -> None:
        self._connection, child_connection = Pipe()
        with child_connection:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexmill.tasks.encoding.worker"],
                stdin=child_connection.fileno(),
                stdout=subprocess.DEVNULL,
                env=os.environ | self._environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
                process_group=0,  # its own group: Ctrl-C reaches only this process, which then ends the other
            )
        self._running = True

    def _stop_and_get_status(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        status = self._process.poll()
        self.stop()
        return status


class _ProgressCounter:
    """Passes progress on, and takes it back when the job has to be repeated."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._items = 0

    def advance(self, items: int) -> None:
        self._items += items
        self._advance(items)

    def undo(self) -> None:
        self._advance(-self._items)
