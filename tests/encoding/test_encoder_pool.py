"""Which GPUs encoding processes are started for, and who borrows them; and how contents are divided into jobs."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.tasks.encoding.chunk_size import WINDOW_MULTIPLE, choose_chunk_rows
from indexmill.tasks.encoding.device import list_devices
from indexmill.tasks.encoding.encoder_pool import EncoderPool
from indexmill.tasks.encoding.process import EncoderProcess


@pytest.mark.parametrize(
    ("visible", "gpus", "devices"),
    [
        (None, 0, [None]),
        (None, 1, [None]),
        (None, 4, ["0", "1", "2", "3"]),
        ("2,3", 4, ["2", "3"]),
        ("GPU-aa, GPU-bb", 8, ["GPU-aa", "GPU-bb"]),
        ("1", 4, [None]),
        ("", 4, [None]),
    ],
)
def test_one_process_per_visible_gpu(visible: str | None, gpus: int, devices: list[str | None]) -> None:
    """With at most one there is nothing to choose, and the process inherits the environment."""
    assert list_devices(visible, gpus) == devices


def test_a_process_that_is_borrowed_is_not_lent_again() -> None:
    """Two processes for three threads: the third waits until one is given back."""
    pool = EncoderPool([EncoderProcess("0"), EncoderProcess("1")])
    entered, leave, borrowed = threading.Event(), threading.Event(), list[EncoderProcess]()

    def borrow_third() -> None:
        entered.set()
        with pool.borrow() as process:
            borrowed.append(process)

    thread = threading.Thread(target=borrow_third)
    with pool.borrow() as first:
        with pool.borrow() as second:
            assert first is not second
            thread.start()
            entered.wait(300)
            assert borrowed == []
            leave.set()
        thread.join(300)
        assert borrowed == [second]


@given(chunk_rows=st.integers(1, 200_000), missing=st.integers(1, 10**7), slots=st.integers(1, 64), rate=st.none() | st.floats(0.1, 1e4))
def test_chunks_are_whole_windows_within_the_configs_limit(chunk_rows: int, missing: int, slots: int, rate: float | None) -> None:
    """Only then do the same contents share a batch with every runner. One slot has no use for smaller chunks."""
    rows = choose_chunk_rows(chunk_rows, missing, slots, rate)
    assert 1 <= rows <= chunk_rows
    assert rows % WINDOW_MULTIPLE == 0 or rows == chunk_rows < WINDOW_MULTIPLE
    assert choose_chunk_rows(chunk_rows, missing, 1, rate) >= rows


@pytest.mark.parametrize(
    ("missing", "slots", "rate", "rows"),
    [
        (60_000, 1, 100.0, 49_152),  # 24 windows, the most that 50,000 allow
        (60_000, 8, 100.0, 8_192),  # 7,500 for each slot, rounded up to windows
        (60_000, 8, 1_000.0, 30_720),  # 30 seconds
        (60_000, 8, None, 8_192),
        (10_000_000, 8, 100.0, 49_152),
        (500, 8, None, 2_048),
    ],
)
def test_hand_worked_chunk_sizes(missing: int, slots: int, rate: float | None, rows: int) -> None:
    assert choose_chunk_rows(50_000, missing, slots, rate) == rows
