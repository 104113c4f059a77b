"""Micro-batching: requests that arrive while a call runs share the next call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class PendingRequest(NamedTuple):
    """A question, how much it counts, and where its answer goes."""

    input_item: Any
    weight: int
    answer: asyncio.Future[Any]


class Batcher(Generic[Q, A]):
    """Does questions of many requests in few calls, each on one of `threads` threads of its own.

    Nothing waits for a batch to fill: the first question goes off at once, and those that come meanwhile are the next batch. So one client
    waits for nobody, and many share what a call costs. Of what waits a call takes its share, so that all threads have work.

    work: the answers to questions, in their order; a question that it raises for is asked again alone, so that one request's fault is no
    other's. weight: how much a question counts; a batch holds `min_weight` if so much waits, and never more than `max_weight`. prepare: what each
    thread does when it starts.
    """

    def __init__(
        self, work: Callable[[Sequence[Q]], Sequence[A]], *, max_weight: int, min_weight: int = 1, weight: Callable[[Q], int],
        on_batch: Callable[[int], None], threads: int = 1, initializer: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._process_batch, self._max_weight, self._min_weight, self._weight, self._on_batch = (
            work,
            max_weight,
            min_weight,
            weight,
            on_batch,
        )
        self._pending: deque[PendingRequest] = deque()
        self._pending_weight, self._running_weight = 0, 0  # all that waits, all that threads do now
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=initializer)
        self.idle_threads = threads

    async def submit(self, *inputs: Q) -> list[A]:
        """The answers, when all are done. A caller that gives up before is left out of its batches."""
        loop = asyncio.get_running_loop()
        pending = [PendingRequest(input_item, self._weight(input_item), loop.create_future()) for input_item in inputs]
        self._pending.extend(pending)
        self._pending_weight += sum(request.weight for request in pending)
        self._start(loop)
        try:
            return [await request.answer for request in pending]
        finally:
            for request in pending:
                if not request.answer.cancel() and not request.answer.cancelled():
                    request.answer.exception()  # looked at, so that asyncio does not complain of those after the first

    def close(self) -> None:
        """End the threads after what they are doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give every free thread a batch, as long as something waits."""
        while self._should_start() and (batch := self._take_batch()):
            self.idle_threads -= 1
            self._running_weight += sum(request.weight for request in batch)
            self._pool.submit(self._run, loop, batch)

    def _should_start(self) -> bool:
        """Whether a thread is free and should begin now: one is not woken for little that another will soon do along."""
        alone = self.idle_threads == self._threads
        return self.idle_threads > 0 and (alone or self._pending_weight >= self._min_weight or self._running_weight >= self._min_weight)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest]) -> None:
        """On a thread: do the batch, and hand its answers back to the loop."""
        results = self._process([request.input_item for request in batch])
        loop.call_soon_threadsafe(self._finish, loop, batch, results)

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest], results: Sequence[A | Exception]) -> None:
        self.idle_threads += 1
        self._running_weight -= sum(request.weight for request in batch)
        self._start(loop)
        for request, result in zip(batch, results, strict=True):
            if request.answer.done():
                continue
            if isinstance(result, Exception):
                request.answer.set_exception(result)
            else:
                request.answer.set_result(result)

    def _take_batch(self) -> list[PendingRequest]:
        """The oldest questions that are still waited for, at least one: a thread's share of all that is to do."""
        batch: list[PendingRequest] = []
        batch_weight, share = (
            0,
            min(max((self._pending_weight + self._running_weight) // self._threads, self._min_weight), self._max_weight),
        )
        while self._pending:
            request = self._pending[0]
            if not request.answer.done():
                if batch and batch_weight + request.weight > share:
                    break
                batch_weight += request.weight
                batch.append(request)
            self._pending_weight -= request.weight
            self._pending.popleft()
        if batch:
            self._on_batch(len(batch))
        return batch

    def _process(self, inputs: Sequence[Q]) -> Sequence[A | Exception]:
        try:
            return self._process_batch(inputs)
        except Exception as error:
            if len(inputs) == 1:
                return [error]
            return [self._process([input_item])[0] for input_item in inputs]
