"""How many items a forward pass should take: tried out, since it depends on the model, the items and the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from indexmill.tasks.encoders.encoding import Encoder
from indexmill.tasks.encoders.memory import out_of_memory

SMALLEST = 8
GAIN = 1.03  # less than this much faster is noise, and a smaller batch needs less memory
PATIENCE = 2  # doublings in a row without a gain
BUDGET_S = 6.0


def fastest_batch(encoder: Encoder, prepared: Sequence[Any]) -> int:
    """The batch size that encodes most items a second: 8, doubled while that helps, up to the length of the sample.

    Stops after about six seconds, or where memory runs out. The encoder's own batch size stays as it is.
    """
    best, best_rate, since = SMALLEST, 0.0, 0
    for size, rate in _rates(encoder, prepared):
        if rate > best_rate * GAIN:
            best, best_rate, since = size, rate, 0
        elif (since := since + 1) == PATIENCE:
            break
    return best


def _rates(encoder: Encoder, prepared: Sequence[Any]) -> Iterator[tuple[int, float]]:
    """Batch sizes and the items a second they reach, over at least two batches where the sample has them."""
    end = time.monotonic() + BUDGET_S
    try:
        encoder.encode(prepared[:SMALLEST], SMALLEST)  # the first pass also allocates and compiles
        for size in takewhile(lambda size: size <= len(prepared) and time.monotonic() < end, _doublings()):
            items = prepared[: 2 * size]
            start = time.perf_counter()
            encoder.encode(items, size)
            yield size, len(items) / (time.perf_counter() - start)
    except Exception as problem:
        if not out_of_memory(problem):
            raise


def _doublings() -> Iterator[int]:
    size = SMALLEST
    while True:
        yield size
        size *= 2
