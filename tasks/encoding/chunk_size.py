"""How many contents an encode chunk has: enough to be worth a task, few enough that little is lost with one."""

from __future__ import annotations

from typing import Literal

DEFAULT_CHUNK_ROWS = 50_000  # before the encoder has run on this device
CHUNK_SECONDS = 45.0  # of encoding per chunk: a task on a cluster costs about a third of a second, a lost one is repeated
MIN_CHUNK_ROWS = 4096  # smaller parts make a store slow to open
MAX_CHUNKS = 4096  # of one build; more tasks and parts than that are slow to plan
MIN_TASK_SECONDS = 30.0  # what a chunk of an explicit number of rows is not made smaller than for the sake of idle slots
WINDOW_MULTIPLE = 2048  # rows; a multiple of the windows of all encoders, with any batch size that is a power of two
MIN_RATE = 20.0  # contents per second of a slow encoder, before its rate is known


def choose_chunk_rows(chunk_rows: int | Literal["auto"], missing: int, slots: int, rate: float | None) -> int:
    """Choose the number of contents per chunk.

    With `auto`, a chunk takes about CHUNK_SECONDS at the measured rate; there are at most MAX_CHUNKS, so that chunks grow
    with the number of contents. A number in the config is the largest one. Either way, chunks are smaller when slots would
    have nothing to do, as long as they take MIN_TASK_SECONDS. Chunks are whole windows, so that the same contents share a
    batch whatever the size of the chunks, and every runner gets the same vectors.

    Args:
        chunk_rows: `encoder.chunk_rows`.
        missing: the contents to encode.
        slots: the chunks that are encoded at the same time.
        rate: contents per second and slot; None if it is not known.
    """
    if chunk_rows != "auto" and chunk_rows < WINDOW_MULTIPLE:
        return chunk_rows
    largest = _choose_by_time(missing, rate) if chunk_rows == "auto" else chunk_rows
    rows = largest
    if slots > 1:
        rows = min(largest, max(-(-missing // slots), round((rate or MIN_RATE) * MIN_TASK_SECONDS)))
    windows = -(-rows // WINDOW_MULTIPLE)
    return (windows if chunk_rows == "auto" else min(windows, largest // WINDOW_MULTIPLE)) * WINDOW_MULTIPLE


def _choose_by_time(missing: int, rate: float | None) -> int:
    by_time = max(MIN_CHUNK_ROWS, round(rate * CHUNK_SECONDS)) if rate else DEFAULT_CHUNK_ROWS
    return max(by_time, -(-missing // MAX_CHUNKS))
