"""Ways to turn the same items into vectors, each loaded and timed in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from encoding.models import Model, Precision, TextLibrary, as_numpy, load_library
from encoding.ours import Indexmill

HELD = 1024  # prepared items that a pure forward row keeps, and goes through again and again
SIZES = {"cpu": (16, 32, 64, 128), "cuda": (64, 128, 256, 512, 1024)}
TRIED = 128  # items, at least one batch, that a batch size is tried on


@dataclass(frozen=True)
class Work:
    """items: image paths or texts. compared: of how many of the first the vectors are handed back."""

    model: Model
    weights: str
    items: list[str]
    compared: int


class Measured(NamedTuple):
    """vectors: float32 (compared, dim) in the items' order, or None where there are none. remark: what else is worth telling."""

    items: int
    seconds: float
    vectors: np.ndarray | None
    remark: str = ""


class Variant(Protocol):
    """One way. It is loaded when it is made."""

    def warm(self) -> None:
        """Everything that a long run pays once."""
        ...

    def measure(self) -> Measured:
        """Go through the items once, timed."""
        ...


class Tutorial:
    """One item after the other, in float32: open, transform, forward."""

    def __init__(self, work: Work) -> None:
        self._work, self._library = work, load_library(work.model, work.weights)

    def warm(self) -> None:
        """A few items."""
        self._encode(self._work.items[:4])

    def measure(self) -> Measured:
        """Every item."""
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
    """`SentenceTransformer.encode` as it comes."""

    def __init__(self, work: Work) -> None:
        self._work, self._library = work, TextLibrary(work.weights)

    def warm(self) -> None:
        """Two batches."""
        self._library.model.encode(self._work.items[:64])

    def measure(self) -> Measured:
        """All items in one call."""
        start = time.perf_counter()
        vectors = self._library.model.encode(self._work.items)
        return Measured(len(vectors), time.perf_counter() - start, vectors[: self._work.compared])


class Forward:
    """The model alone: prepared batches of similar length lie on the device already. The batch size that is fastest here."""

    def __init__(self, work: Work, precision: Precision) -> None:
        self._library = load_library(work.model, work.weights, precision, fast=True)
        self._items, self._compared = len(work.items), work.compared
        held = work.items[:HELD]
        self._order = np.argsort([0 if work.model.images else len(item) for item in held], kind="stable")
        self._prepared = [self._library.prepare(held[number]) for number in self._order]

    def warm(self) -> None:
        """Find the batch size."""
        import torch

        sizes = SIZES["cuda" if torch.cuda.is_available() else "cpu"]
        tried = [size for size in sizes if size <= len(self._prepared)] or [len(self._prepared)]
        self._run(self._batches(tried[0])[:2])
        rates = {size: self._rate(self._batches(size)) for size in tried}
        self._size = max(rates, key=lambda size: rates[size])
        self._chosen = self._batches(self._size)
        self._run(self._chosen[-1:])

    def measure(self) -> Measured:
        """As many items as the others, whole batches."""
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
        # The middle, for texts neither the shortest nor the longest.
        size = len(self._prepared) / len(batches)
        count = min(len(batches), max(1, round(TRIED / size)))
        first = (len(batches) - count) // 2
        start = time.perf_counter()
        return len(self._run(batches[first : first + count])) / (time.perf_counter() - start)

    def _run(self, batches: list[Any]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            vectors = [self._library.forward(batch) for batch in batches]
            return as_numpy(torch.cat(vectors))


class Ours:
    """Indexmill, files or texts in, vectors out."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._indexmill = Indexmill(work.model.settings(work.weights), work.items, images=work.model.images)

    def warm(self) -> None:
        """It is warm."""

    def measure(self) -> Measured:
        """Every item."""
        start = time.perf_counter()
        vectors = self._indexmill.encode()
        return Measured(len(vectors), time.perf_counter() - start, vectors[: self._work.compared])


class Opened(Ours):
    """Indexmill's reading, opening and preparing, without the model."""

    def measure(self) -> Measured:
        """Every image."""
        start = time.perf_counter()
        count = self._indexmill.prepare()
        return Measured(count, time.perf_counter() - start, None)


Factory = Callable[[Work], Variant]
