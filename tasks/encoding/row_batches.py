"""Read, preprocess and encode rows of an items table, a few windows at a time, and find the fastest batch size."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, takewhile
from typing import Any, NamedTuple

import numpy as np

from indexmill.storage.contents import join_location, read_content
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import IndexmillError, SourceChanged, SourceUnreachable
from indexmill.tasks.encoding.base import EncodedItems, Encoder, encode_batches, is_out_of_memory
from indexmill.tasks.progress import Advance
from indexmill.tasks.validation.image_reader import UNLIMITED, UnreadableImage, read_image

READER_THREADS = max(2, (os.cpu_count() or 2) - 1)
WINDOWS_AHEAD = 2

MIN_BATCH_SIZE = 8
MIN_SPEEDUP = 1.03  # a smaller gain is noise, and a smaller batch needs less memory
MAX_DOUBLINGS_WITHOUT_GAIN = 2
SEARCH_BUDGET_SECONDS = 6.0

ItemRow = dict[str, Any]
RejectReason = tuple[str, str]  # a code and a message


class EncodedWindow(NamedTuple):
    """A window of rows and their vectors.

    Attributes:
        rows: Rows of the items table.
        encoded: The vector of each row.
        issues: Position of a row -> why its vector cannot be used.
    """

    rows: list[ItemRow]
    encoded: EncodedItems
    issues: dict[int, RejectReason]


def encode_rows(encoder: Encoder, rows: Iterator[ItemRow], image_root: str | None, advance: Advance) -> Iterator[EncodedWindow]:
    """Encode rows window by window, in order.

    Args:
        encoder: A loaded model.
        rows: Rows with item_id, content_digest, text, path.
        image_root: The folder that paths are relative to; None for texts.
        advance: Called with the number of rows just encoded.

    Raises:
        SourceChanged: An image is not the one that was listed.
        SourceUnreachable: The images are behind URLs, and the server does not answer.
    """
    for window, inputs in preprocess_windows(encoder, rows, image_root):
        encoded, failed = _encode_with_fallback(encoder, inputs, advance)
        yield EncodedWindow(window, encoded, find_invalid_vectors(encoded.vectors, encoder.dim) | failed)


def preprocess_windows(encoder: Encoder, rows: Iterator[ItemRow], image_root: str | None) -> Iterator[tuple[list[ItemRow], list[Any]]]:
    """Yield windows of rows with the encoder's inputs. The next images are read while the caller works on a window."""
    if image_root is None:
        while window := _take(rows, encoder.window):
            yield window, [encoder.preprocess(row["text"]) for row in window]
        return
    pending: deque[tuple[list[ItemRow], list[Future[Any]]]] = deque()
    with ThreadPoolExecutor(READER_THREADS) as readers:
        while window := _take(rows, encoder.window):
            pending.append((window, [readers.submit(_read_and_preprocess, encoder, image_root, row) for row in window]))
            if len(pending) > WINDOWS_AHEAD:
                yield _wait_for_images(*pending.popleft())
        while pending:
            yield _wait_for_images(*pending.popleft())


def find_invalid_vectors(vectors: np.ndarray, dim: int) -> dict[int, RejectReason]:
    """Find vectors that cannot be searched: not `dim` finite numbers, or all zero.

    Args:
        vectors: float32 (n, any).
        dim: The encoder's dimension.

    Returns:
        Row -> reason: `wrong_dimension`, `not_finite` or `zero_vector`, with a message.
    """
    if vectors.shape[1] != dim:
        return dict.fromkeys(
            range(len(vectors)), ("wrong_dimension", f"the vector has {vectors.shape[1]} numbers, the encoder's dim is {dim}")
        )
    finite = np.isfinite(vectors).all(axis=1)
    zero = finite & ~vectors.any(axis=1)
    not_finite = ("not_finite", "the encoder returned an infinite number or NaN")
    zero_vector = ("zero_vector", "the encoder returned only zeros, which have no direction")
    return {int(row): not_finite for row in np.flatnonzero(~finite)} | {int(row): zero_vector for row in np.flatnonzero(zero)}


def set_fastest_batch_size(encoder: Encoder, inputs: Sequence[Any]) -> None:
    """Find the fastest batch size for these preprocessed items, and set it."""
    set_batch_size(encoder, find_fastest_batch_size(encoder, inputs))


def preprocess_rows(encoder: Encoder, rows: Iterator[ItemRow], image_root: str | None) -> list[Any]:
    """Return the encoder's inputs of a few rows."""
    return [item for _, window in preprocess_windows(encoder, rows, image_root) for item in window]


def set_batch_size(encoder: Encoder, size: int) -> None:
    """Set the batch size, and scale the window to it."""
    encoder.window = max(size, encoder.window // encoder.batch_size * size)
    encoder.batch_size = size


def find_fastest_batch_size(encoder: Encoder, inputs: Sequence[Any]) -> int:
    """Find the batch size that encodes the most items per second, doubling from 8 up to the number of inputs.

    Stops when doubling no longer helps, after about six seconds, or when memory runs out. The encoder's own batch size
    stays unchanged.
    """
    best_size, best_rate, doublings_without_gain = MIN_BATCH_SIZE, 0.0, 0
    for size, rate in _measure_rates(encoder, inputs):
        if rate > best_rate * MIN_SPEEDUP:
            best_size, best_rate, doublings_without_gain = size, rate, 0
        elif (doublings_without_gain := doublings_without_gain + 1) == MAX_DOUBLINGS_WITHOUT_GAIN:
            break
    return best_size


def _take(rows: Iterator[ItemRow], count: int) -> list[ItemRow]:
    return list(islice(rows, count))


def _wait_for_images(window: list[ItemRow], images: Sequence[Future[Any]]) -> tuple[list[ItemRow], list[Any]]:
    return window, [image.result() for image in images]


def _read_and_preprocess(encoder: Encoder, image_root: str, row: ItemRow) -> Any:
    location = join_location(image_root, row["path"])
    try:
        content = read_content(location)
        if content_digest(content) == row["content_digest"]:
            return encoder.preprocess(read_image(content, UNLIMITED, encoder.decode_size))
    except SourceUnreachable:
        raise
    except (OSError, UnreadableImage):
        pass
    raise SourceChanged("an image changed while the build was running", where=location, next_step="run the build again")


def _encode_with_fallback(encoder: Encoder, inputs: list[Any], advance: Advance) -> tuple[EncodedItems, dict[int, RejectReason]]:
    """Encode a window. If an item makes its batch fail, encode the items one by one and reject those that fail.

    If all of several items fail, the encoder is broken, and the last error is raised. A service that cannot be reached is no
    item's fault.
    """
    try:
        return encode_batches(encoder, inputs, advance), {}
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, SourceUnreachable):
            raise
    vectors, truncated = np.full((len(inputs), encoder.dim), np.nan, np.float32), np.zeros(len(inputs), bool)
    failed: dict[int, RejectReason] = {}
    for row, item in enumerate(inputs):
        try:
            encoded = encode_batches(encoder, [item], advance)
            vectors[row], truncated[row] = encoded.vectors[0], encoded.truncated[0]
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, SourceUnreachable) or 1 < len(inputs) == len(failed) + 1:
                raise
            message = error.got if isinstance(error, IndexmillError) else f"{type(error).__name__}: {error}"
            failed[row] = ("encoder_error", message[:500])
    return EncodedItems(vectors, truncated), failed


def _measure_rates(encoder: Encoder, inputs: Sequence[Any]) -> Iterator[tuple[int, float]]:
    """Yield batch sizes with their items per second, measured over two batches if the sample is large enough."""
    end = time.monotonic() + SEARCH_BUDGET_SECONDS
    try:
        encoder.encode(inputs[:MIN_BATCH_SIZE], MIN_BATCH_SIZE)  # warm-up: the first pass also allocates and compiles
        for size in takewhile(lambda size: size <= len(inputs) and time.monotonic() < end, _double_batch_sizes()):
            items = inputs[: 2 * size]
            start = time.perf_counter()
            encoder.encode(items, size)
            yield size, len(items) / (time.perf_counter() - start)
    except Exception as error:
        if not is_out_of_memory(error):
            raise


def _double_batch_sizes() -> Iterator[int]:
    size = MIN_BATCH_SIZE
    while True:
        yield size
        size *= 2
