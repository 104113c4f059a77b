"""Micro-batches: what is asked while one call runs is done together in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Does questions of many requests in one call at a time, on a thread of its own.

    Nothing waits for a batch to fill: the first question goes off at once, and those that come meanwhile are the next batch. So one
    client waits for nobody, and many share what a call costs. work: the answers to questions, in their order; a question that it raises
    for is asked again alone, so that one request's fault is no other's. weight: how much a question counts; `most` is what a batch may.
    """

    def __init__(
        self, work: Callable[[Sequence[Q]], Sequence[A]], *, most: int, weight: Callable[[Q], int], told: Callable[[int], None]
    ) -> None:
        self._work, self._most, self._weight, self._told = work, most, weight, told
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._running: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """The answer, when its batch is done. A caller that gives up before is left out of it."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await answer

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            results = await loop.run_in_executor(self._thread, self._done, [question for question, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        """The oldest questions that are still waited for, at least one, at most what a batch may hold."""
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        held = 0
        while self._waiting:
            question, answer = self._waiting[0]
            if not answer.done():
                held += self._weight(question)
                if batch and held > self._most:
                    break
                batch.append((question, answer))
            self._waiting.popleft()
        self._told(len(batch)) if batch else None
        return batch

    def _done(self, questions: Sequence[Q]) -> Sequence[A | Exception]:
        try:
            return self._work(questions)
        except Exception as problem:
            if len(questions) == 1:
                return [problem]
            return [self._done([question])[0] for question in questions]
