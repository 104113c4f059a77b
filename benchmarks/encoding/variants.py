"""Variants of encoding the same items, each loaded and timed in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.encoding.models import Model, Precision, TextLibrary, as_numpy, load_library
from benchmarks.encoding.ours import Indexmill

PREPARED_ITEMS = 1024  # prepared items that the pure forward variant cycles through
BATCH_SIZES = {"cpu": (16, 32, 64, 128), "cuda": (64, 128, 256, 512, 1024)}
TRIAL_ITEMS = 128  # items to try a batch size on, at least one batch


@dataclass(frozen=True)
class Work:
    """items: image paths or texts. compared: number of leading vectors to return for comparison."""

    model: Model
    weights: str
    items: list[str]
    compared: int


class Measured(NamedTuple):
    """vectors: float32 (compared, dim) in the items' order, or None. remark: further information."""

    items: int
    seconds: float
    vectors: np.ndarray | None
    remark: str = ""


class Variant(Protocol):
    """One variant, loaded by its constructor."""

    def warm(self) -> None:
        """Do everything that a long run does once."""
        ...

    def measure(self) -> Measured:
        """Encode the items once, timed."""
        ...


class Tutorial:
    """One item after another in float32: open, transform, forward."""

    def __init__(self, work: Work) -> None:
        self._work, self._library = work, load_library(work.model, work.weights)

    def warm(self) -> None:
        """Encode a few items."""
        self._encode(self._work.items[:4])

    def measure(self) -> Measured:
        """Encode every item."""
        start = time.perf_counter()
        vectors = self._encode(self._work.items)
        return Measured(len(vectors), time.perf_counter() - start, vectors[: self._work.compared])

    def _encode(self, items: list[str]) -> np.ndarray:
        import torch

        if isinstance(self._library, TextLibrary):
            return np.stack([self._library.model.encode(item) for item in items])
        with torch.no_grad():
            return np.concatenate([as_numpy(self._library.forward(self._library.collate([self._library.prepare(item)]))) for item in items])


class LibraryDefault:
    """`SentenceTransformer.encode` with its defaults."""

    def __init__(self, work: Work) -> None:
        self._work, self._library = work, TextLibrary(work.weights)

    def warm(self) -> None:
        """Encode two batches."""
        self._library.model.encode(self._work.items[:64])

    def measure(self) -> Measured:
        """Encode all items in one call."""
        start = time.perf_counter()
        vectors = self._library.model.encode(self._work.items)
        return Measured(len(vectors), time.perf_counter() - start, vectors[: self._work.compared])


class Forward:
    """The model alone, on prepared batches of similar length that are on the device, with the fastest batch size."""

    def __init__(self, work: Work, precision: Precision) -> None:
        self._library = load_library(work.model, work.weights, precision, fast=True)
        self._items, self._compared = len(work.items), work.compared
        prepared_items = work.items[:PREPARED_ITEMS]
        self._order = np.argsort([0 if work.model.images else len(item) for item in prepared_items], kind="stable")
        self._prepared = [self._library.prepare(prepared_items[number]) for number in self._order]

    def warm(self) -> None:
        """Find the fastest batch size."""
        import torch

        sizes = BATCH_SIZES["cuda" if torch.cuda.is_available() else "cpu"]
        candidate_sizes = [size for size in sizes if size <= len(self._prepared)] or [len(self._prepared)]
        self._run(self._batches(candidate_sizes[0])[:2])
        rates = {size: self._rate(self._batches(size)) for size in candidate_sizes}
        self._size = max(rates, key=lambda size: rates[size])
        self._chosen = self._batches(self._size)
        self._run(self._chosen[-1:])

    def measure(self) -> Measured:
        """Encode as many items as the others, in whole batches."""
        passes = math.ceil(self._items / len(self._prepared))
        start = time.perf_counter()
        vectors = self._run(list(islice(cycle(self._chosen), passes * len(self._chosen))))
        seconds = time.perf_counter() - start
        ordered = np.empty_like(vectors[: len(self._order)])
        ordered[self._order] = vectors[: len(self._order)]
        return Measured(len(vectors), seconds, ordered[: self._compared], f"batch {self._size}")

    def _batches(self, size: int) -> list[Any]:
        return [self._library.collate(self._prepared[start : start + size]) for start in range(0, len(self._prepared), size)]

    def _rate(self, batches: list[Any]) -> float:
        # From the middle, so that texts are neither the shortest nor the longest.
        size = len(self._prepared) / len(batches)
        count = min(len(batches), max(1, round(TRIAL_ITEMS / size)))
        first = (len(batches) - count) // 2
        start = time.perf_counter()
        return len(self._run(batches[first : first + count])) / (time.perf_counter() - start)

    def _run(self, batches: list[Any]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            vectors = [self._library.forward(batch) for batch in batches]
            return as_numpy(torch.cat(vectors))


class Ours:
    """Indexmill, from files or texts to vectors."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._indexmill = Indexmill(work.model.settings(work.weights), work.items, images=work.model.images)

    def warm(self) -> None:
        """Do nothing: it is warm."""

    def measure(self) -> Measured:
        """Encode every item."""
        start = time.perf_counter()
        vectors = self._indexmill.encode()
        return Measured(len(vectors), time.perf_counter() - start, vectors[: self._work.compared])


class Opened(Ours):
    """Indexmill without the model: reading, opening and preparing."""

    def measure(self) -> Measured:
        """Prepare every image."""
        start = time.perf_counter()
        count = self._indexmill.prepare()
        return Measured(count, time.perf_counter() - start, None)


Factory = Callable[[Work], Variant]
