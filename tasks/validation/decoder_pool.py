"""Decode images in worker processes, so that one that hangs, crashes or exhausts memory costs one image, not the run.

Every worker answers its requests in order, one at a time: when it dies, the first unanswered request is the cause.
Workers start without multiprocessing, which would import the caller's main module and Prefect with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Pipe, wait
from types import TracebackType

from indexmill.storage.errors import IndexmillError
from indexmill.tasks.validation.decoder_worker import OUT_OF_MEMORY_STATUS, DecoderConfig, DecodeRequest, compute_image_signature
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage

DecodeResult = str | UnreadableImage

DEFAULT_PROCESSES = 2
QUEUE_DEPTH = 8  # requests queued per process, so that it never waits for the next
MAX_IN_FLIGHT = 256  # requests that may be submitted before the oldest one is answered
REQUESTS_PER_PROCESS = 64  # requests before another process starts, which takes as long as about 200 small images


class DecoderPool:
    """A pool of decoder processes. They start when there is work, and end with the `with` block.

    Args:
        limits: Limits on the size and shape of images.
        timeout_s: Seconds per image.
        processes: The maximum number of processes.
        decode: A top-level function that turns a request into its result; it may raise UnreadableImage.
    """

    def __init__(
        self,
        limits: ImageLimits,
        *,
        timeout_s: float,
        processes: int = DEFAULT_PROCESSES,
        decode: Callable[[DecodeRequest, ImageLimits], str] = compute_image_signature,
    ) -> None:
        config = DecoderConfig(decode, limits, timeout_s)
        self._processes = [_DecoderProcess(config) for _ in range(processes)]
        self._submitted = 0

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.stop()

    def decode_all(self, requests: Iterable[DecodeRequest]) -> Iterator[DecodeResult]:
        """Yield the result of each request in order, or the error that prevented it.

        Besides the reasons of `read_image`: `unopenable`, `changed`, `timeout`, `memory`, `decoder_crash`. A request
        whose process crashed or ran out of memory is retried once in a new process, since an earlier image may be the
        cause.
        """
        source, results = enumerate(requests), dict[int, DecodeResult]()
        try:
            for number in count():
                while number not in results:
                    self._submit_requests(source, MAX_IN_FLIGHT - len(results))
                    if not (busy := {process.connection: process for process in self._processes if process.pending}):
                        return
                    for connection in wait(list(busy)):
                        results |= busy[connection].receive()  # type: ignore[index]  # wait's return type is a wide union
                yield results.pop(number)
        finally:
            for process in self._processes:
                if process.pending:
                    process.stop()  # the caller left early and does not want these results

    def _submit_requests(self, source: Iterator[tuple[int, DecodeRequest]], capacity: int) -> None:
        capacity -= sum(len(process.pending) for process in self._processes)
        for position, process in enumerate(self._processes):
            while len(process.pending) < QUEUE_DEPTH and capacity > 0 and self._submitted >= position * REQUESTS_PER_PROCESS:
                if (numbered_request := next(source, None)) is None:
                    return
                number, request = numbered_request
                process.submit(number, request)
                self._submitted += 1
                capacity -= 1


class _DecoderProcess:
    """A decoder process with its pending requests; it starts with the first request."""

    def __init__(self, config: DecoderConfig) -> None:
        self.pending: deque[tuple[int, DecodeRequest]] = deque()
        self._config = config
        self._is_running = False
        self._is_ready = False
        self._is_suspect = False  # the first pending request killed the previous process

    def submit(self, number: int, request: DecodeRequest) -> None:
        if not self._is_running:
            self._start()
        self.pending.append((number, request))
        self._send(request)

    def receive(self) -> dict[int, DecodeResult]:
        """Return the next result by its number; nothing if the process only became ready or was replaced."""
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._restart()
        if result is None:
            self._is_ready = True
            return {}
        self._is_suspect = False
        number, _ = self.pending.popleft()
        return {number: result}

    def stop(self) -> None:
        """Kill the process and drop its requests."""
        self.pending.clear()
        if self._is_running:
            self._process.kill()
            self._process.wait()
            self.connection.close()
            self._is_running = False

    def _start(self) -> None:
        self.connection, worker_end = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        with worker_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexmill.tasks.validation.decoder_worker"],
                stdin=worker_end.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # a group of its own: Ctrl-C reaches the parent only, which then stops its workers
            )
        self._is_running = True
        self._is_ready = False
        self._send(self._config)

    def _send(self, message: DecoderConfig | DecodeRequest) -> None:
        with suppress(ConnectionError):  # the process died; `receive` will notice
            self.connection.send(message)

    def _restart(self) -> dict[int, DecodeResult]:
        """Replace the dead process. Returns an error for the request that killed it, if that is certain."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        pending, status = list(self.pending), self._process.poll()
        self.stop()
        if not self._is_ready and status is not None and status > 0:
            raise IndexmillError(
                "the image decoder process failed to start", got=f"exit status {status}", next_step="see its error output above"
            )
        error = _explain_exit(status, self._config.timeout_s)
        is_culprit = error.reason == "timeout" or self._is_suspect
        failed: dict[int, DecodeResult] = {}
        if is_culprit:
            number, _ = pending.pop(0)
            failed[number] = error
        self._is_suspect = not is_culprit
        for number, request in pending:
            self.submit(number, request)
        return failed


def _explain_exit(status: int | None, timeout_s: float) -> UnreadableImage:
    if status == -signal.SIGALRM:
        return UnreadableImage("timeout", f"not decoded after {timeout_s:g} seconds")
    if status == OUT_OF_MEMORY_STATUS:
        return UnreadableImage("memory", "needs more memory than an image within max_pixels can need")
    name = signal.Signals(-status).name if status is not None and status < 0 else f"exit status {status}"
    return UnreadableImage("decoder_crash", f"the decoder process ended with {name}")
