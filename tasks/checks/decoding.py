"""Opening images in processes of their own, so that a decoder that hangs, crashes or swells costs one image and not the run.

Every process answers its requests in order, one at a time: when it dies, the first one without an answer is the one that killed it.
The processes start afresh and import only what they need; multiprocessing's would import the caller's main module, Prefect and all.
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
from indexmill.tasks.checks.decoder import OUT_OF_MEMORY, Job, Request, picture_group
from indexmill.tasks.checks.images import Limits, UnreadableImage

Group = str | UnreadableImage

PROCESSES = 2
DEPTH = 8  # requests that a process holds, so that it never waits for the next
AHEAD = 256  # requests that may be under way or answered before an earlier one is
WORTH_A_PROCESS = 64  # requests before the next process starts, which takes as long as some two hundred small images


class Decoders:
    """The processes: started when there is work for them, and none left when the `with` block ends."""

    def __init__(
        self, limits: Limits, seconds: float, *, processes: int = PROCESSES, decode: Callable[[Request, Limits], str] = picture_group
    ) -> None:
        job = Job(decode, limits, seconds)
        self._processes = [_Process(job) for _ in range(processes)]
        self._taken = 0

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.stop()

    def groups(self, requests: Iterable[Request]) -> Iterator[Group]:
        """For each request in order its content group, or the problem that it has instead.

        Besides read_image's reasons: `unopenable`, `changed`, `timeout`, `memory`, `decoder_crash`. A request whose process crashed or
        ran out of memory is tried once more in a new one, since an earlier image can have done the harm.
        """
        source, answered = enumerate(requests), dict[int, Group]()
        try:
            for number in count():
                while number not in answered:
                    self._hand_out(source, AHEAD - len(answered))
                    if not (busy := {process.connection: process for process in self._processes if process.held}):
                        return
                    for connection in wait(list(busy)):
                        answered |= busy[connection].answer()  # type: ignore[index]  # a union of all that can be waited for
                yield answered.pop(number)
        finally:
            for process in self._processes:
                if process.held:
                    process.stop()  # the caller left early, and nobody wants these answers

    def _hand_out(self, source: Iterator[tuple[int, Request]], room: int) -> None:
        room -= sum(len(process.held) for process in self._processes)
        for position, process in enumerate(self._processes):
            while len(process.held) < DEPTH and room > 0 and self._taken >= position * WORTH_A_PROCESS:
                if (numbered := next(source, None)) is None:
                    return
                process.take(*numbered)
                self._taken, room = self._taken + 1, room - 1


class _Process:
    """One process, or the place for one, and the requests that it holds."""

    def __init__(self, job: Job) -> None:
        self.held: deque[tuple[int, Request]] = deque()
        self._job, self._running, self._ready, self._suspected = job, False, False, False

    def take(self, number: int, request: Request) -> None:
        if not self._running:
            self._start()
        self.held.append((number, request))
        self._send(request)

    def answer(self) -> dict[int, Group]:
        """The next answer with its number; nothing when the process has only said that it is ready, or has been replaced."""
        try:
            group = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._replace()
        if group is None:
            self._ready = True
            return {}
        self._suspected = False
        return {self.held.popleft()[0]: group}

    def stop(self) -> None:
        """End the process and forget its requests."""
        self.held.clear()
        if self._running:
            self._process.kill()
            self._process.wait()
            self.connection.close()
            self._running = False

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            # A process group of its own: Ctrl-C reaches this process alone, which then ends the others.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexmill.tasks.checks.decoder"],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=environment,
                process_group=0,
            )  # fmt: skip
        self._running, self._ready = True, False
        self._send(self._job)

    def _send(self, message: Job | Request) -> None:
        with suppress(ConnectionError):  # of a process that has died, which the lack of an answer will tell
            self.connection.send(message)

    def _replace(self) -> dict[int, Group]:
        """A new process in the place of the dead one, and a verdict when it is clear which request killed it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        held, status = list(self.held), self._process.poll()
        self.stop()
        if not self._ready and status is not None and status > 0:
            raise IndexmillError("the process that opens images does not start", got=f"status {status}", next_step="see what it said above")
        problem = _cause(status, self._job.seconds)
        guilty = problem.reason == "timeout" or self._suspected
        verdict: dict[int, Group] = {held.pop(0)[0]: problem} if guilty else {}
        self._suspected = not guilty
        for numbered in held:
            self.take(*numbered)
        return verdict


def _cause(status: int | None, seconds: float) -> UnreadableImage:
    if status == -signal.SIGALRM:
        return UnreadableImage("timeout", f"not open after {seconds:g} seconds")
    if status == OUT_OF_MEMORY:
        return UnreadableImage("memory", "takes more memory than an image within max_pixels can need")
    name = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
    return UnreadableImage("decoder_crash", f"the decoder ended with {name}")
