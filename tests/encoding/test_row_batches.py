"""The batch size is found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.row_batches import find_fastest_batch_size


class Clock:
    """Seconds that pass only when somebody says so: what a busy machine does to a measurement is not what is tested."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexmill.tasks.encoding.row_batches.time", CLOCK)


class Costly:
    """An encoder whose passes cost a fixed time each, and which is as fast as can be at `knee` items a pass."""

    modality, dim, batch_size, window = "text", 1, 4, 4

    def __init__(self, knee: int, limit: int = 10_000) -> None:
        self.knee, self.limit, self.sizes = knee, limit, list[int]()

    def preprocess(self, item: Any) -> Any:
        return item

    def encode(self, prepared: Sequence[Any], batch_size: int) -> EncodedItems:
        if batch_size > self.limit:
            raise MemoryError
        self.sizes.append(batch_size)
        CLOCK.now += 0.002 * len(prepared) / min(batch_size, self.knee)
        return EncodedItems(np.ones((len(prepared), 1), np.float32), np.zeros(len(prepared), bool))


def test_the_smallest_batch_that_is_as_fast_as_any_is_taken() -> None:
    """Doubling helps up to 32; 64 and 128 are tried in vain, and 256 is not."""
    encoder = Costly(knee=32)
    assert find_fastest_batch_size(encoder, range(512)) == 32  # type: ignore[arg-type]
    assert set(encoder.sizes) == {8, 16, 32, 64, 128}
    assert encoder.batch_size == 4


def test_the_search_ends_where_memory_or_the_sample_does() -> None:
    """The best size so far; 8 when nothing larger can be tried, which encoding halves if it must."""
    assert find_fastest_batch_size(Costly(knee=512, limit=64), range(512)) == 64  # type: ignore[arg-type]
    assert find_fastest_batch_size(Costly(knee=512), range(100)) == 64  # type: ignore[arg-type]
    assert find_fastest_batch_size(Costly(knee=512, limit=4), range(100)) == 8  # type: ignore[arg-type]
    assert find_fastest_batch_size(Costly(knee=512), range(3)) == 8  # type: ignore[arg-type]


def test_other_faults_are_raised() -> None:
    """A model that cannot encode the items is no reason for a small batch."""

    class Broken(Costly):
        def encode(self, prepared: Sequence[Any], batch_size: int) -> EncodedItems:
            raise ValueError("poison")

    with pytest.raises(ValueError, match="poison"):
        find_fastest_batch_size(Broken(8), range(10))  # type: ignore[arg-type]
