"""Decode images in worker processes, so that one that hangs, crashes or exhausts memory costs one image, not the run.

Every worker answers its requests in order, one at a time: when it dies, the first unanswered request is the cause.
Workers start without multiprocessing, which would import the caller's main module and Prefect with it."""

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
from indexmill.tasks.validation.decoder_worker import OUT_OF_MEMORY_STATUS, DecoderConfig, DecodeRequest, compute_content_group
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage

DecodeResult = str | UnreadableImage

DEFAULT_PROCESSES = 2
QUEUE_DEPTH = 8  # requests that a process holds, so that it never waits for the next
MAX_IN_FLIGHT = 256  # requests that may be under way or answered before an earlier one is
REQUESTS_PER_PROCESS = 64  # requests before the next process starts, which takes as long as some two hundred small images


class DecoderPool:
    """The processes: started when there is work for them, and none left when the `with` block ends."""

    def __init__(
        self,
        limits: ImageLimits,
        timeout_s: float,
        *,
        processes: int = DEFAULT_PROCESSES,
        decode: Callable[[DecodeRequest, ImageLimits], str] = compute_content_group,
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
        """For each request in order its content group, or the problem that it has instead.

        Besides read_image's reasons: `unopenable`, `changed`, `timeout`, `memory`, `decoder_crash`. A request whose process crashed or
        ran out of memory is tried once more in a new one, since an earlier image can have done the harm.
        """
        source, results = enumerate(requests), dict[int, DecodeResult]()
        try:
            for number in count():
                while number not in results:
                    self._submit_requests(source, MAX_IN_FLIGHT - len(results))
                    if not (busy := {process.connection: process for process in self._processes if process.pending}):
                        return
                    for connection in wait(list(busy)):
                        results |= busy[connection].receive()  # type: ignore[index]  # a union of all that can be waited for
                yield results.pop(number)
        finally:
            for process in self._processes:
                if process.pending:
                    process.stop()  # the caller left early, and nobody wants these answers

    def _submit_requests(self, source: Iterator[tuple[int, DecodeRequest]], capacity: int) -> None:
        capacity -= sum(len(process.pending) for process in self._processes)
        for position, process in enumerate(self._processes):
            while len(process.pending) < QUEUE_DEPTH and capacity > 0 and self._submitted >= position * REQUESTS_PER_PROCESS:
                if (numbered_request := next(source, None)) is None:
                    return
                process.submit(*numbered_request)
                self._submitted, capacity = self._submitted + 1, capacity - 1


class _DecoderProcess:
    """One process, or the place for one, and the requests that it holds."""

    def __init__(self, config: DecoderConfig) -> None:
        self.pending: deque[tuple[int, DecodeRequest]] = deque()
        self._config, self._is_running, self._is_ready, self._is_suspect = config, False, False, False

    def submit(self, number: int, request: DecodeRequest) -> None:
        if not self._is_running:
            self._start()
        self.pending.append((number, request))
        self._send(request)

    def receive(self) -> dict[int, DecodeResult]:
        """The next answer with its number; nothing when the process has only said that it is ready, or has been replaced."""
        try:
            group = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._restart()
        if group is None:
            self._is_ready = True
            return {}
        self._is_suspect = False
        return {self.pending.popleft()[0]: group}

    def stop(self) -> None:
        """End the process and forget its requests."""
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
            # A process group of its own: Ctrl-C reaches this process alone, which then ends the others.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexmill.tasks.validation.decoder_worker"],
                stdin=worker_end.fileno(), stdout=subprocess.DEVNULL, env=environment,
                process_group=0,
            )  # fmt: skip
        self._is_running, self._is_ready = True, False
        self._send(self._config)

    def _send(self, message: DecoderConfig | DecodeRequest) -> None:
        with suppress(ConnectionError):  # of a process that has died, which the lack of an answer will tell
            self.connection.send(message)

    def _restart(self) -> dict[int, DecodeResult]:
        """A new process in the place of the dead one, and a verdict when it is clear which request killed it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        pending, status = list(self.pending), self._process.poll()
        self.stop()
        if not self._is_ready and status is not None and status > 0:
            raise IndexmillError("the process that opens images does not start", got=f"status {status}", next_step="see what it said above")
        error = _explain_exit(status, self._config.timeout_s)
        is_culprit = error.reason == "timeout" or self._is_suspect
        verdict: dict[int, DecodeResult] = {pending.pop(0)[0]: error} if is_culprit else {}
        self._is_suspect = not is_culprit
        for numbered_request in pending:
            self.submit(*numbered_request)
        return verdict


def _explain_exit(status: int | None, timeout_s: float) -> UnreadableImage:
    if status == -signal.SIGALRM:
        return UnreadableImage("timeout", f"not open after {timeout_s:g} seconds")
    if status == OUT_OF_MEMORY_STATUS:
        return UnreadableImage("memory", "takes more memory than an image within max_pixels can need")
    name = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
    return UnreadableImage("decoder_crash", f"the decoder ended with {name}")
