"""Chunks take about 45 seconds, and there are never more than 4,096 of them."""

from __future__ import annotations

import pytest

from indexmill.tasks.encoding.chunk_size import WINDOW_MULTIPLE, choose_chunk_rows


@pytest.mark.parametrize(
    ("missing", "slots", "rate", "rows"),
    [
        (10**6, 1, None, 50_000),  # the encoder has never run here
        (10**6, 1, 1_800.0, 81_000),  # 45 s
        (10**6, 1, 30.0, 4_096),  # 45 s would be 1,350 contents, and 741 parts
        (10**9, 1, 1_800.0, 244_141),  # 4,096 chunks, 136 s each
        (10**9, 1, 20_000.0, 900_000),  # 1,112 chunks of 45 s
        (10**9, 64, None, 244_141),
        (10**6, 16, 1_800.0, 62_500),  # one chunk for each of 16 slots: 35 s
        (10**6, 64, 1_800.0, 54_000),  # 30 s: 45 of 64 slots have no more to do
        (100, 8, None, 600),
    ],
)
def test_rows_follow_the_rate_the_number_of_contents_and_the_slots(missing: int, slots: int, rate: float | None, rows: int) -> None:
    """By hand."""
    assert choose_chunk_rows("auto", missing, slots, rate) == -(-rows // WINDOW_MULTIPLE) * WINDOW_MULTIPLE
    assert -(-missing // rows) <= 4096


def test_a_number_in_the_config_is_the_largest() -> None:
    """Fewer where slots would be idle: 25,000 contents on 4 slots are 6,250 each, at 208 a second or more slowly; in windows."""
    assert choose_chunk_rows(70, 10**9, 1, 1_800.0) == 70
    assert choose_chunk_rows(50_000, 25_000, 4, 8.0) == 4 * 2048
    assert choose_chunk_rows(50_000, 25_000, 4, 300.0) == 5 * 2048
