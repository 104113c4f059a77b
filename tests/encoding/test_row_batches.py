"""The fastest batch size is found by measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.row_batches import find_fastest_batch_size


class FakeClock:
    """A clock that the test advances, so that a busy machine cannot affect the result."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


CLOCK = FakeClock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexmill.tasks.encoding.row_batches.time", CLOCK)


class BatchCostEncoder:
    """An encoder that gets faster with the batch size up to `knee` items, and runs out of memory above `limit`."""

    modality, dim, batch_size, window = "text", 1, 4, 4

    def __init__(self, knee: int, limit: int = 10_000) -> None:
        self.knee, self.limit, self.sizes = knee, limit, list[int]()

    def preprocess(self, item: Any) -> Any:
        return item

    def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
        if batch_size > self.limit:
            raise MemoryError
        self.sizes.append(batch_size)
        CLOCK.now += 0.002 * len(inputs) / min(batch_size, self.knee)
        return EncodedItems(np.ones((len(inputs), 1), np.float32), np.zeros(len(inputs), bool))


def test_the_smallest_of_the_fastest_batch_sizes_is_chosen() -> None:
    """Doubling helps up to 32; 64 and 128 bring no gain, and 256 is not tried."""
    encoder = BatchCostEncoder(knee=32)
    assert find_fastest_batch_size(encoder, range(512)) == 32  # type: ignore[arg-type]
    assert set(encoder.sizes) == {8, 16, 32, 64, 128}
    assert encoder.batch_size == 4


def test_the_search_ends_at_the_limit_of_memory_or_sample() -> None:
    """It returns the best size so far, or 8 if nothing larger can be tried."""
    assert find_fastest_batch_size(BatchCostEncoder(knee=512, limit=64), range(512)) == 64  # type: ignore[arg-type]
    assert find_fastest_batch_size(BatchCostEncoder(knee=512), range(100)) == 64  # type: ignore[arg-type]
    assert find_fastest_batch_size(BatchCostEncoder(knee=512, limit=4), range(100)) == 8  # type: ignore[arg-type]
    assert find_fastest_batch_size(BatchCostEncoder(knee=512), range(3)) == 8  # type: ignore[arg-type]


def test_other_errors_are_raised() -> None:
    """An error other than lack of memory does not end in a small batch."""

    class Broken(BatchCostEncoder):
        def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
            raise ValueError("poison")

    with pytest.raises(ValueError, match="poison"):
        find_fastest_batch_size(Broken(8), range(10))  # type: ignore[arg-type]
