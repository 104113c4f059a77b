"""Micro-batching: which inputs share a call, and which request gets which output."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from indexmill.serve.http.batching import Batcher


class GatedSquares:
    """Squares numbers once it is opened, and records each call. The weight of a number is the number itself."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        assert self.open.wait(300)
        if 13 in numbers:
            raise ValueError("thirteen")
        return [number**2 for number in numbers]


def make_batcher(gate: GatedSquares, *, threads: int = 1, max_weight: int = 100, min_weight: int = 1) -> Batcher[int, int]:
    return Batcher(gate, max_weight=max_weight, min_weight=min_weight, weight=int, on_batch=lambda _: None, threads=threads)


async def wait_until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not is_true():
            await asyncio.sleep(0.001)


async def submit_each(batcher: Batcher[int, int], numbers: Sequence[int]) -> list[asyncio.Task[list[int]]]:
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await asyncio.sleep(0.01)
    return tasks


def test_inputs_that_arrive_during_a_call_form_the_next_one() -> None:
    """The first input starts alone, the next three share a call within the weight limit; each gets its own output."""

    async def run() -> None:
        gate = GatedSquares()
        batcher = make_batcher(gate, max_weight=9)
        tasks = await submit_each(batcher, [5, 2, 3, 4, 6])
        await wait_until(lambda: bool(gate.calls))
        assert gate.calls == [[5]]
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[25], [4], [9], [16], [36]]
        assert gate.calls == [[5], [2, 3, 4], [6]]
        batcher.close()

    asyncio.run(run())


def test_a_second_thread_starts_only_for_enough_work() -> None:
    """Weight 3 waits while weight 4 runs, both below 8; with 6 more a second call starts before the first ends."""

    async def run() -> None:
        gate = GatedSquares()
        batcher = make_batcher(gate, threads=2, min_weight=8)
        tasks = await submit_each(batcher, [4, 3])
        await wait_until(lambda: bool(gate.calls))
        assert gate.calls == [[4]]
        tasks += await submit_each(batcher, [6])
        await wait_until(lambda: len(gate.calls) == 2)
        assert gate.calls == [[4], [3]] or gate.calls == [[4], [3, 6]]
        gate.open.set()
        assert await asyncio.gather(*tasks) == [[16], [9], [36]]
        batcher.close()

    asyncio.run(run())


def test_a_batch_leaves_other_threads_their_share() -> None:
    """Two threads take 20 each of a pending weight of 40; of 60 more, the first idle thread leaves the other a share."""

    async def run() -> None:
        gate = GatedSquares()
        batcher = make_batcher(gate, threads=2, min_weight=8)
        task = asyncio.create_task(batcher.submit(*[10] * 4))
        await wait_until(lambda: len(gate.calls) == 2)
        assert gate.calls == [[10, 10], [10, 10]]
        later = asyncio.create_task(batcher.submit(*[10] * 6))
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await task == [100] * 4
        assert await later == [100] * 6
        assert gate.calls[2] == [10] * 4
        batcher.close()

    asyncio.run(run())


def test_one_bad_input_does_not_fail_the_others_in_its_batch() -> None:
    """The bad input raises, and the others get their outputs."""

    async def run() -> None:
        gate = GatedSquares()
        batcher = make_batcher(gate)
        tasks = await submit_each(batcher, [1, 2, 13, 3])
        gate.open.set()
        outputs = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outputs[position] for position in (0, 1, 3)] == [[1], [4], [9]]
        assert isinstance(outputs[2], ValueError)
        batcher.close()

    asyncio.run(run())


def test_a_cancelled_input_is_never_processed() -> None:
    """An input cancelled before its call starts is dropped, and later inputs are still processed."""

    async def run() -> None:
        gate = GatedSquares()
        batcher = make_batcher(gate)
        tasks = await submit_each(batcher, [1, 2, 3])
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        gate.open.set()
        assert [await tasks[0], await tasks[2]] == [[1], [9]]
        assert gate.calls == [[1], [3]]
        assert await batcher.submit(7, 8) == [49, 64]
        assert gate.calls[2:] == [[7, 8]]
        batcher.close()

    asyncio.run(run())
