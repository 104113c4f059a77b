"""Read, preprocess and encode rows of an items table, a few windows in memory at a time, and find the fastest batch size."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import SourceChanged
from indexmill.tasks.encoding.base import EncodedItems, Encoder, encode_batches, is_out_of_memory
from indexmill.tasks.progress import Advance
from indexmill.tasks.validation.image_reader import UNLIMITED, UnreadableImage, read_image

RejectReason = tuple[str, str]  # a reason's code, and what it says


def find_invalid_vectors(vectors: np.ndarray, dim: int) -> dict[int, RejectReason]:
    """Row -> reason, for the rows of float32 (n, any) that are not `dim` finite numbers, one of them at least not zero.

    Reasons: `wrong_dimension`, `not_finite`, `zero_vector`.
    """
    if vectors.shape[1] != dim:
        return dict.fromkeys(range(len(vectors)), ("wrong_dimension", f"{vectors.shape[1]} numbers, and the encoder's vectors have {dim}"))
    finite = np.isfinite(vectors).all(axis=1)
    issues = {int(row): ("not_finite", "the encoder gave a number that is infinite or none") for row in np.flatnonzero(~finite)}
    zero = finite & ~vectors.any(axis=1)
    return issues | {int(row): ("zero_vector", "the encoder gave zeros alone, which have no direction") for row in np.flatnonzero(zero)}


READER_THREADS = max(2, (os.cpu_count() or 2) - 1)
WINDOWS_AHEAD = 2

ItemRow = dict[str, Any]


class EncodedWindow(NamedTuple):
    """Rows with what came of them. encoded: row i's vector; problems: row -> why its vector cannot be used."""

    rows: list[ItemRow]
    encoded: EncodedItems
    issues: dict[int, RejectReason]


def encode_rows(encoder: Encoder, rows: Iterator[ItemRow], image_root: str | None, advance: Advance) -> Iterator[EncodedWindow]:
    """The rows (item_id, content_digest, text, path) in their order, window by window. base: the folder of images; None for texts."""
    for window, prepared in preprocess_windows(encoder, rows, image_root):
        encoded, failed = _encode_with_fallback(encoder, prepared, advance)
        yield EncodedWindow(window, encoded, find_invalid_vectors(encoded.vectors, encoder.dim) | failed)


def preprocess_windows(encoder: Encoder, rows: Iterator[ItemRow], image_root: str | None) -> Iterator[tuple[list[ItemRow], list[Any]]]:
    """Windows of rows with what the encoder takes for them. The next are under way while the caller works on the last."""
    if image_root is None:
        while window := _take(rows, encoder.window):
            yield window, [encoder.preprocess(row["text"]) for row in window]
        return
    ahead: deque[tuple[list[ItemRow], list[Future[Any]]]] = deque()
    with ThreadPoolExecutor(READER_THREADS) as openers:
        while window := _take(rows, encoder.window):
            ahead.append((window, [openers.submit(_read_and_preprocess, encoder, Path(image_root), row) for row in window]))
            if len(ahead) > WINDOWS_AHEAD:
                yield _wait_for_images(*ahead.popleft())
        while ahead:
            yield _wait_for_images(*ahead.popleft())


def _take(rows: Iterator[ItemRow], count: int) -> list[ItemRow]:
    return list(islice(rows, count))


def _wait_for_images(window: list[ItemRow], images: Sequence[Future[Any]]) -> tuple[list[ItemRow], list[Any]]:
    return window, [image.result() for image in images]


def _read_and_preprocess(encoder: Encoder, image_root: Path, row: ItemRow) -> Any:
    path = image_root / row["path"]
    try:
        content = path.read_bytes()
        if content_digest(content) == row["content_digest"]:
            return encoder.preprocess(read_image(content, UNLIMITED, encoder.decode_size))
    except (OSError, UnreadableImage):
        pass
    raise SourceChanged("an image changed while the build was running", where=str(path), next_step="run the build again")


def _encode_with_fallback(encoder: Encoder, prepared: list[Any], advance: Advance) -> tuple[EncodedItems, dict[int, RejectReason]]:
    """The window's vectors. When an item spoils its batch, all are tried one by one, and it alone goes without.

    When every one of several fails, it is the encoder that is broken: its exception is raised.
    """
    try:
        return encode_batches(encoder, prepared, advance), {}
    except Exception as problem:
        if is_out_of_memory(problem):
            raise
    vectors, truncated = np.full((len(prepared), encoder.dim), np.nan, np.float32), np.zeros(len(prepared), bool)
    failed: dict[int, RejectReason] = {}
    for row, item in enumerate(prepared):
        try:
            alone = encode_batches(encoder, [item], advance)
            vectors[row], truncated[row] = alone.vectors[0], alone.truncated[0]
        except Exception as problem:
            if is_out_of_memory(problem) or 1 < len(prepared) == len(failed) + 1:
                raise
            failed[row] = ("encoder_error", f"{type(problem).__name__}: {problem}"[:500])
    return EncodedItems(vectors, truncated), failed


MIN_BATCH_SIZE = 8
MIN_SPEEDUP = 1.03  # less than this much faster is noise, and a smaller batch needs less memory
MAX_DOUBLINGS_WITHOUT_GAIN = 2  # doublings in a row without a gain
SEARCH_BUDGET_SECONDS = 6.0


def find_fastest_batch_size(encoder: Encoder, prepared: Sequence[Any]) -> int:
    """The batch size that encodes most items a second: 8, doubled while that helps, up to the length of the sample.

    Stops after about six seconds, or where memory runs out. The encoder's own batch size stays as it is.
    """
    best, best_rate, doublings_without_gain = MIN_BATCH_SIZE, 0.0, 0
    for size, rate in _measure_rates(encoder, prepared):
        if rate > best_rate * MIN_SPEEDUP:
            best, best_rate, doublings_without_gain = size, rate, 0
        elif (doublings_without_gain := doublings_without_gain + 1) == MAX_DOUBLINGS_WITHOUT_GAIN:
            break
    return best


def _measure_rates(encoder: Encoder, prepared: Sequence[Any]) -> Iterator[tuple[int, float]]:
    """Batch sizes and the items a second they reach, over at least two batches where the sample has them."""
    end = time.monotonic() + SEARCH_BUDGET_SECONDS
    try:
        encoder.encode(prepared[:MIN_BATCH_SIZE], MIN_BATCH_SIZE)  # the first pass also allocates and compiles
        for size in takewhile(lambda size: size <= len(prepared) and time.monotonic() < end, _double_batch_sizes()):
            items = prepared[: 2 * size]
            start = time.perf_counter()
            encoder.encode(items, size)
            yield size, len(items) / (time.perf_counter() - start)
    except Exception as problem:
        if not is_out_of_memory(problem):
            raise


def _double_batch_sizes() -> Iterator[int]:
    size = MIN_BATCH_SIZE
    while True:
        yield size
        size *= 2
