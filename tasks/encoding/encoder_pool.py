"""Encoding processes, one per GPU, that jobs borrow; and the pool of a cluster's worker process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import LifoQueue

from indexmill.storage.records import Runtime
from indexmill.tasks.encoding.device import list_own_devices
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ChunkResult, EncodeChunk, ModelSpec
from indexmill.tasks.progress import Advance

IDLE_SECONDS = 60.0  # a cluster's worker keeps a model this long without a job


class EncoderPool:
    """Processes of which each encodes one chunk at a time. They start when they are needed.

    Args:
        processes: The processes; the last one is borrowed first.
    """

    def __init__(self, processes: Sequence[EncoderProcess]) -> None:
        self.processes = tuple(processes)
        self._idle: LifoQueue[EncoderProcess] = LifoQueue()
        for process in processes:
            self._idle.put(process)

    @contextmanager
    def borrow(self) -> Iterator[EncoderProcess]:
        """Yield a process that no other thread uses. Waits for one."""
        process = self._idle.get()
        try:
            yield process
        finally:
            self._idle.put(process)

    def stop(self) -> None:
        """End all processes, and release their memory."""
        for process in self.processes:
            process.stop()


def make_local_pool(process: EncoderProcess) -> EncoderPool:
    """Make the pool of a build on its own machine: `process`, and another process for each further GPU."""
    devices = list_own_devices()
    return EncoderPool([*(EncoderProcess(device) for device in devices[1:]), process])


class WorkerEncoders:
    """The encoding processes of a cluster's worker. They keep their models from job to job, and end when no job comes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: EncoderPool | None = None
        self._busy = 0
        self._timer: threading.Timer | None = None
        self._measured: dict[tuple[ModelSpec, bool], tuple[int, Runtime]] = {}  # batch size and runtime

    def encode(self, chunk: EncodeChunk, advance: Advance) -> ChunkResult:
        """Encode one chunk. Batch size and runtime are looked for once per model. Raises like `EncoderProcess.encode`."""
        with self._use() as pool, pool.borrow() as process:
            key = (chunk.model, chunk.compares_runtimes)
            if chunk.batch_size is None and (known := self._measured.get(key)):
                chunk = replace(chunk, batch_size=known[0], model=replace(chunk.model, runtime=known[1]))
            result = process.encode(chunk, advance)
            self._measured[key] = result.batch_size, result.runtime
            return result

    @contextmanager
    def _use(self) -> Iterator[EncoderPool]:
        with self._lock:
            if self._timer:
                self._timer.cancel()
            if self._pool is None:
                self._pool = EncoderPool([EncoderProcess(device) for device in list_own_devices()])
            self._busy += 1
            pool = self._pool
        try:
            yield pool
        finally:
            with self._lock:
                self._busy -= 1
                if not self._busy:
                    self._timer = threading.Timer(IDLE_SECONDS, self._stop_if_idle)
                    self._timer.daemon = True
                    self._timer.start()

    def _stop_if_idle(self) -> None:
        with self._lock:
            if not self._busy and self._pool:
                self._pool.stop()
                self._pool = None


WORKER_ENCODERS = WorkerEncoders()  # of this process, if it is a cluster's worker
