"""From rows of an items table to vectors: opened, prepared and encoded, a few windows in memory at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import SourceChanged
from indexmill.tasks.checks.images import UNLIMITED, UnreadableImage, read_image
from indexmill.tasks.checks.vectors import Problem, vector_problems
from indexmill.tasks.encoders.encoding import Encoded, Encoder, encode_batches
from indexmill.tasks.encoders.memory import out_of_memory
from indexmill.tasks.progress import Advance

OPENERS = max(2, (os.cpu_count() or 2) - 1)
WINDOWS_AHEAD = 2

Row = dict[str, Any]


class Block(NamedTuple):
    """Rows with what came of them. encoded: row i's vector; problems: row -> why its vector cannot be used."""

    rows: list[Row]
    encoded: Encoded
    problems: dict[int, Problem]


def encode_rows(encoder: Encoder, rows: Iterator[Row], base: str | None, advance: Advance) -> Iterator[Block]:
    """The rows (item_id, content_digest, text, path) in their order, window by window. base: the folder of images; None for texts."""
    for window, prepared in prepared_windows(encoder, rows, base):
        encoded, failed = _forgiving(encoder, prepared, advance)
        yield Block(window, encoded, vector_problems(encoded.vectors, encoder.dim) | failed)


def prepared_windows(encoder: Encoder, rows: Iterator[Row], base: str | None) -> Iterator[tuple[list[Row], list[Any]]]:
    """Windows of rows with what the encoder takes for them. The next are under way while the caller works on the last."""
    if base is None:
        while window := _taken(rows, encoder.window):
            yield window, [encoder.prepare(row["text"]) for row in window]
        return
    ahead: deque[tuple[list[Row], list[Future[Any]]]] = deque()
    with ThreadPoolExecutor(OPENERS) as openers:
        while window := _taken(rows, encoder.window):
            ahead.append((window, [openers.submit(_opened, encoder, Path(base), row) for row in window]))
            if len(ahead) > WINDOWS_AHEAD:
                yield _finished(*ahead.popleft())
        while ahead:
            yield _finished(*ahead.popleft())


def _taken(rows: Iterator[Row], count: int) -> list[Row]:
    return list(islice(rows, count))


def _finished(window: list[Row], images: Sequence[Future[Any]]) -> tuple[list[Row], list[Any]]:
    return window, [image.result() for image in images]


def _opened(encoder: Encoder, base: Path, row: Row) -> Any:
    path = base / row["path"]
    try:
        content = path.read_bytes()
        if content_digest(content) == row["content_digest"]:
            return encoder.prepare(read_image(content, UNLIMITED, encoder.wants))
    except (OSError, UnreadableImage):
        pass
    raise SourceChanged("an image changed while the build was running", where=str(path), next_step="run the build again")


def _forgiving(encoder: Encoder, prepared: list[Any], advance: Advance) -> tuple[Encoded, dict[int, Problem]]:
    """The window's vectors. When an item spoils its batch, all are tried one by one, and it alone goes without.

    When every one of several fails, it is the encoder that is broken: its exception is raised.
    """
    try:
        return encode_batches(encoder, prepared, advance), {}
    except Exception as problem:
        if out_of_memory(problem):
            raise
    vectors, truncated = np.full((len(prepared), encoder.dim), np.nan, np.float32), np.zeros(len(prepared), bool)
    failed: dict[int, Problem] = {}
    for row, item in enumerate(prepared):
        try:
            alone = encode_batches(encoder, [item], advance)
            vectors[row], truncated[row] = alone.vectors[0], alone.truncated[0]
        except Exception as problem:
            if out_of_memory(problem) or 1 < len(prepared) == len(failed) + 1:
                raise
            failed[row] = ("encoder_error", f"{type(problem).__name__}: {problem}"[:500])
    return Encoded(vectors, truncated), failed
