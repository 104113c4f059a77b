"""Micro-batches by themselves: which questions share a call, and who gets which answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from indexmill.serve.http.batching import Batcher


class Gate:
    """Work that waits until it is let on: squares of numbers, each call noted. Weights are the numbers themselves."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        assert self.open.wait(10)
        if 13 in numbers:
            raise ValueError("thirteen")
        return [number**2 for number in numbers]


def batcher(gate: Gate, *, threads: int = 1, max_weight: int = 100, min_weight: int = 1) -> Batcher[int, int]:
    return Batcher(gate, max_weight=max_weight, min_weight=min_weight, weight=int, on_batch=lambda _: None, threads=threads)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def asked(batches: Batcher[int, int], numbers: Sequence[int]) -> list[asyncio.Task[list[int]]]:
    tasks = [asyncio.create_task(batches.submit(number)) for number in numbers]
    await asyncio.sleep(0.01)
    return tasks


def test_what_comes_while_a_call_runs_is_the_next_call() -> None:
    """The first question goes off alone, the next three together, within the most that a call may weigh; each gets its own answer."""

    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, max_weight=9)
        tasks = await asked(batches, [5, 2, 3, 4, 6])
        assert gate.calls == [[5]]
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[25], [4], [9], [16], [36]]
        assert gate.calls == [[5], [2, 3, 4], [6]]
        batches.close()

    asyncio.run(run())


def test_a_second_thread_is_woken_for_much_and_not_for_little() -> None:
    """3 wait for the 4 that are being done, since both are below 8; with 6 more a second call begins, though the first is not done."""

    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, threads=2, min_weight=8)
        tasks = await asked(batches, [4, 3])
        assert gate.calls == [[4]]
        tasks += await asked(batches, [6])
        await until(lambda: len(gate.calls) == 2)
        assert gate.calls == [[4], [3]] or gate.calls == [[4], [3, 6]]
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[16], [9], [36]]
        batches.close()

    asyncio.run(run())


def test_a_call_leaves_the_other_threads_their_share() -> None:
    """Of 40 that wait together, two threads take 20 each; of 60 that then wait, the first that is free leaves the other its share."""

    async def run() -> None:
        gate = Gate()
        batches = batcher(gate, threads=2, min_weight=8)
        task = asyncio.create_task(batches.submit(*[10] * 4))
        await until(lambda: len(gate.calls) == 2)
        assert gate.calls == [[10, 10], [10, 10]]
        later = asyncio.create_task(batches.submit(*[10] * 6))
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await task == [100] * 4
        assert await later == [100] * 6
        assert gate.calls[2] == [10] * 4
        batches.close()

    asyncio.run(run())


def test_one_questions_fault_is_no_others() -> None:
    """In a call of three the one that cannot be done raises, and the others have their answers."""

    async def run() -> None:
        gate = Gate()
        batches = batcher(gate)
        tasks = await asked(batches, [1, 2, 13, 3])
        gate.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[place] for place in (0, 1, 3)] == [[1], [4], [9]]
        assert isinstance(answers[2], ValueError)
        batches.close()

    asyncio.run(run())


def test_who_gives_up_is_left_out() -> None:
    """A question whose asker is gone before its call begins is never done, and the weights stay right: the next ones are."""

    async def run() -> None:
        gate = Gate()
        batches = batcher(gate)
        tasks = await asked(batches, [1, 2, 3])
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        gate.open.set()
        assert [await tasks[0], await tasks[2]] == [[1], [9]]
        assert gate.calls == [[1], [3]]
        assert await batches.submit(7, 8) == [49, 64]
        assert gate.calls[2:] == [[7, 8]]
        batches.close()

    asyncio.run(run())
