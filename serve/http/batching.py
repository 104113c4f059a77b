"""Micro-batching: requests that arrive while a call runs share the next call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


class PendingRequest(NamedTuple):
    """An input in the queue, its weight, and the future that receives its output."""

    input_item: Any
    weight: int
    output: asyncio.Future[Any]


class Batcher(Generic[Input, Output]):
    """Process the inputs of many requests in few calls, on threads of its own.

    No input waits for a batch to fill: the first one starts a call at once, and those that arrive meanwhile form the
    next batch. A single client therefore sees no extra latency, and many clients share the cost of a call. A batch
    takes only its share of the queue, so that every thread has work.

    Args:
        process_batch: Returns one output per input, in order. If it raises, each input of the batch is processed
            alone, so that one bad input does not fail the others.
        weight: The weight of an input, for example its number of queries.
        max_weight: The largest weight of a batch, unless a single input is heavier.
        min_weight: An idle thread leaves lighter work to a busy one.
        on_batch: Called with the number of inputs of each batch.
        threads: The number of threads.
        initializer: Called once on each thread.
    """

    def __init__(
        self,
        process_batch: Callable[[Sequence[Input]], Sequence[Output]],
        *,
        weight: Callable[[Input], int],
        max_weight: int,
        min_weight: int = 1,
        on_batch: Callable[[int], None],
        threads: int = 1,
        initializer: Callable[[], None] | None = None,
    ) -> None:
        self._process_batch, self._weight, self._on_batch = process_batch, weight, on_batch
        self._max_weight, self._min_weight = max_weight, min_weight
        self._pending: deque[PendingRequest] = deque()
        self._pending_weight = self._running_weight = 0
        self._threads = self.idle_threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=initializer)

    async def submit(self, *inputs: Input) -> list[Output]:
        """Wait for the outputs of all inputs. If the caller is cancelled, inputs that are still queued are dropped."""
        loop = asyncio.get_running_loop()
        requests = [PendingRequest(input_item, self._weight(input_item), loop.create_future()) for input_item in inputs]
        self._pending.extend(requests)
        self._pending_weight += sum(request.weight for request in requests)
        self._start_batches(loop)
        try:
            return [await request.output for request in requests]
        finally:
            for request in requests:
                if not request.output.cancel() and not request.output.cancelled():
                    request.output.exception()  # mark as retrieved: asyncio warns about exceptions that are never retrieved

    def close(self) -> None:
        """Stop the threads once their current batches are done."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_batches(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand batches to idle threads while there is enough to do."""
        while self._should_start() and (batch := self._take_batch()):
            self.idle_threads -= 1
            self._running_weight += sum(request.weight for request in batch)
            self._pool.submit(self._run_batch, loop, batch)

    def _should_start(self) -> bool:
        """Return whether an idle thread should start now; light work is left to a thread that is soon free."""
        if self.idle_threads == self._threads:
            return True
        return self.idle_threads > 0 and max(self._pending_weight, self._running_weight) >= self._min_weight

    def _take_batch(self) -> list[PendingRequest]:
        """Take the oldest inputs that are still wanted, up to one thread's share of all work, but at least one."""
        share = max((self._pending_weight + self._running_weight) // self._threads, self._min_weight)
        limit = min(share, self._max_weight)
        batch: list[PendingRequest] = []
        batch_weight = 0
        while self._pending:
            request = self._pending[0]
            if not request.output.done():
                if batch and batch_weight + request.weight > limit:
                    break
                batch_weight += request.weight
                batch.append(request)
            self._pending_weight -= request.weight
            self._pending.popleft()
        if batch:
            self._on_batch(len(batch))
        return batch

    def _run_batch(self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest]) -> None:
        """Process a batch on a thread and pass the outputs to the event loop."""
        outputs = self._process([request.input_item for request in batch])
        loop.call_soon_threadsafe(self._finish_batch, loop, batch, outputs)

    def _process(self, inputs: Sequence[Input]) -> Sequence[Output | Exception]:
        try:
            return self._process_batch(inputs)
        except Exception as error:
            if len(inputs) == 1:
                return [error]
            return [self._process([input_item])[0] for input_item in inputs]

    def _finish_batch(self, loop: asyncio.AbstractEventLoop, batch: list[PendingRequest], outputs: Sequence[Output | Exception]) -> None:
        self.idle_threads += 1
        self._running_weight -= sum(request.weight for request in batch)
        self._start_batches(loop)
        for request, output in zip(batch, outputs, strict=True):
            if request.output.done():
                continue
            if isinstance(output, Exception):
                request.output.set_exception(output)
            else:
                request.output.set_result(output)
