"""Manage the encoding process (`tasks.encoding.worker`): start it on demand, restart it if it is killed, stop it on exit."""

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
    ExportResult,
    ExportTextEncoder,
    Job,
    JobResult,
    LoadModel,
    ModelSpec,
    PrecisionComparison,
    PreloadLibrary,
    Progress,
    QueryLatency,
    TimeQueries,
)
from indexmill.tasks.progress import Advance

INITIAL_BATCH_SIZE = 32  # the batch size to halve when a process was killed before it told its own


class WorkerLost(IndexmillError, ConnectionError):
    """The process ended before it answered. It is a ConnectionError too: what tries passing faults again tries this."""

    def __init__(self, status: int | None) -> None:
        name = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
        super().__init__("the process that encodes was lost", got=name, next_step="run the build again: what was finished is kept")
        self.killed = status == -signal.SIGKILL


class EncoderProcess:
    """One process that keeps its model loaded from job to job."""

    def __init__(self) -> None:
        self._running = False
        self._batch_size = INITIAL_BATCH_SIZE

    def __enter__(self) -> EncoderProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def preload(self, config: EncoderConfig) -> None:
        """Start the process and let it import what the encoder needs, while the caller goes on with other things."""
        if not self._running:
            self._start()
            with suppress(ConnectionError):  # the next job finds it lost
                self._connection.send(PreloadLibrary(config))

    def encode(self, job: EncodeChunk, advance: Advance) -> ChunkResult:
        """Encode one shard. Raises WorkerLost when the process ends, and what went wrong in it when it says so."""
        return cast(ChunkResult, self._run_with_smaller_batches(job, advance))

    def compare(self, job: ComparePrecision) -> PrecisionComparison:
        """How near the fastest precision here comes to float32."""
        return cast(PrecisionComparison, self._run_with_smaller_batches(job, _ignore_progress))

    def load(self, model: ModelSpec) -> None:
        """Load a model; raises InputError for weights that are not its own."""
        self._run_job(LoadModel(model), _ignore_progress)

    def time_queries(self, job: TimeQueries) -> dict[str, float]:
        """How long one query takes to encode."""
        return cast(QueryLatency, self._run_job(job, _ignore_progress)).metrics

    def export(self, job: ExportTextEncoder) -> ExportResult:
        """Write a model for those who ask without torch. Raises what went wrong in it, and WorkerLost when the process ends."""
        return cast(ExportResult, self._run_job(job, _ignore_progress))

    def _run_with_smaller_batches(self, job: EncodeChunk | ComparePrecision, advance: Advance) -> JobResult:
        """The kernel kills what takes too much memory: then with half the batch once more, down to one item."""
        while True:
            done = 0

            def count_items(items: int) -> None:
                nonlocal done
                done += items
                advance(items)

            try:
                return self._run_job(job, count_items)
            except WorkerLost as lost:
                advance(-done)
                if not lost.killed or self._batch_size == 1:
                    raise
                self._batch_size //= 2
                job = replace(job, batch_size=self._batch_size)

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._running:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._running = False

    def _run_job(self, job: Job, advance: Advance) -> JobResult:
        if not self._running:
            self._start()
        try:
            self._connection.send(job)
            while isinstance(answer := self._connection.recv(), Progress):
                self._batch_size = answer.batch_size
                advance(answer.items)
        except (EOFError, ConnectionError):
            raise_if_stopping("while encoding")  # the signal may have reached both
            raise WorkerLost(self._stop_and_get_status()) from None
        if isinstance(answer, Exception):
            raise answer
        return cast(JobResult, answer)

    def _start(self) -> None:
        self._connection, child_connection = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with child_connection:
            # A process group of its own: Ctrl-C reaches this process alone, which then ends the other.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexmill.tasks.encoding.worker"],
                stdin=child_connection.fileno(), stdout=subprocess.DEVNULL, env=environment,
                process_group=0,
            )  # fmt: skip
        self._running = True

    def _stop_and_get_status(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        status = self._process.poll()
        self.stop()
        return status


def _ignore_progress(items: int) -> None:
    """Progress that nobody watches."""
