"""What an encoder is, and encoding in batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from storage.records import Modality
from tasks.progress import Advance


class Encoder(Protocol):
    """A loaded model. modality: what it takes (str, or RGB Pillow images). dim: length of its vectors. batch_size: items a pass.

    window: items that are handed over at once, at least a batch: a text model sorts them by length.
    """

    modality: Modality
    dim: int
    batch_size: int
    window: int

    def prepare(self, item: Any) -> Any:
        """What `encode` takes for one item: for an image, its pixels at the model's own size. Called from several threads at once."""
        ...

    def encode(self, prepared: Sequence[Any], batch_size: int) -> np.ndarray:
        """Vectors of prepared items in their order: float32 (n, dim)."""
        ...


@runtime_checkable
class EncodesTextsToo(Protocol):
    """An encoder of images that puts texts into the same space."""

    def encode_texts(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Vectors of the texts in their order: float32 (n, dim)."""
        ...


def encode_items(encoder: Encoder, items: Sequence[Any]) -> np.ndarray:
    """Vectors of a handful of items, none of them prepared: float32 (n, dim)."""
    return encode_batches(encoder, [encoder.prepare(item) for item in items])


def encode_batches(encoder: Encoder, prepared: Sequence[Any], advance: Advance = lambda finished: None) -> np.ndarray:
    """Encode prepared items window by window: float32 (n, dim). When memory runs out the batch is halved, for good, and tried again."""
    vectors = np.empty((len(prepared), encoder.dim), dtype=np.float32)
    start = 0
    while start < len(prepared):
        window = prepared[start : start + encoder.window]
        try:
            vectors[start : start + len(window)] = encoder.encode(window, encoder.batch_size)
        except Exception as problem:
            if not _out_of_memory(problem) or encoder.batch_size == 1:
                raise
            encoder.batch_size //= 2
            encoder.window = max(encoder.batch_size, encoder.window // 2)
            continue
        start += len(window)
        advance(len(window))
    return vectors


def _out_of_memory(problem: Exception) -> bool:
    """Python's, CUDA's (torch.OutOfMemoryError) and the CPU allocator's way of saying that memory ran out."""
    return (
        isinstance(problem, MemoryError)
        or type(problem).__name__ == "OutOfMemoryError"
        or (isinstance(problem, RuntimeError) and "can't allocate memory" in str(problem))
    )
