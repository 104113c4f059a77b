"""Micro-batches: what is asked while calls run is done together in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Waiting(NamedTuple):
    """A question, how much it counts, and where its answer goes."""

    question: Any
    weight: int
    answer: asyncio.Future[Any]


class Batcher(Generic[Q, A]):
    """Does questions of many requests in few calls, each on one of `threads` threads of its own.

    Nothing waits for a batch to fill: the first question goes off at once, and those that come meanwhile are the next batch. So one client
    waits for nobody, and many share what a call costs. Of what waits a call takes its share, so that all threads have work.

    work: the answers to questions, in their order; a question that it raises for is asked again alone, so that one request's fault is no
    other's. weight: how much a question counts; a batch holds `least` if so much waits, and never more than `most`. prepare: what each
    thread does when it starts.
    """

    def __init__(
        self, work: Callable[[Sequence[Q]], Sequence[A]], *, most: int, least: int = 1, weight: Callable[[Q], int],
        told: Callable[[int], None], threads: int = 1, prepare: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._work, self._most, self._least, self._weight, self._told = work, most, least, weight, told
        self._waiting: deque[Waiting] = deque()
        self._weighs, self._doing = 0, 0  # all that waits, all that threads do now
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=prepare)
        self.free = threads

    async def ask(self, *questions: Q) -> list[A]:
        """The answers, when all are done. A caller that gives up before is left out of its batches."""
        loop = asyncio.get_running_loop()
        asked = [Waiting(question, self._weight(question), loop.create_future()) for question in questions]
        self._waiting.extend(asked)
        self._weighs += sum(one.weight for one in asked)
        self._start(loop)
        try:
            return [await one.answer for one in asked]
        finally:
            for one in asked:
                if not one.answer.cancel() and not one.answer.cancelled():
                    one.answer.exception()  # looked at, so that asyncio does not complain of those after the first

    def close(self) -> None:
        """End the threads after what they are doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give every free thread a batch, as long as something waits."""
        while self._worth() and (batch := self._next()):
            self.free -= 1
            self._doing += sum(one.weight for one in batch)
            self._pool.submit(self._run, loop, batch)

    def _worth(self) -> bool:
        """Whether a thread is free and should begin now: one is not woken for little that another will soon do along."""
        alone = self.free == self._threads
        return self.free > 0 and (alone or self._weighs >= self._least or self._doing >= self._least)

    def _run(self, loop: asyncio.AbstractEventLoop, batch: list[Waiting]) -> None:
        """On a thread: do the batch, and hand its answers back to the loop."""
        results = self._done([one.question for one in batch])
        loop.call_soon_threadsafe(self._finish, loop, batch, results)

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[Waiting], results: Sequence[A | Exception]) -> None:
        self.free += 1
        self._doing -= sum(one.weight for one in batch)
        self._start(loop)
        for one, result in zip(batch, results, strict=True):
            if one.answer.done():
                continue
            if isinstance(result, Exception):
                one.answer.set_exception(result)
            else:
                one.answer.set_result(result)

    def _next(self) -> list[Waiting]:
        """The oldest questions that are still waited for, at least one: a thread's share of all that is to do."""
        batch: list[Waiting] = []
        held, share = 0, min(max((self._weighs + self._doing) // self._threads, self._least), self._most)
        while self._waiting:
            one = self._waiting[0]
            if not one.answer.done():
                if batch and held + one.weight > share:
                    break
                held += one.weight
                batch.append(one)
            self._weighs -= one.weight
            self._waiting.popleft()
        if batch:
            self._told(len(batch))
        return batch

    def _done(self, questions: Sequence[Q]) -> Sequence[A | Exception]:
        try:
            return self._work(questions)
        except Exception as problem:
            if len(questions) == 1:
                return [problem]
            return [self._done([question])[0] for question in questions]
