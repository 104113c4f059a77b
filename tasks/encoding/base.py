"""The Encoder protocol, and batch encoding that halves the batch size when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from indexmill.storage.records import Modality
from indexmill.tasks.progress import Advance


class EncodedItems(NamedTuple):
    """vectors: float32 (n, dim). truncated: bool (n,), whether the model saw only an item's beginning; never so for images."""

    vectors: np.ndarray
    truncated: np.ndarray


class Encoder(Protocol):
    """A loaded model. modality: what it takes (str, or RGB Pillow images). dim: length of its vectors. batch_size: items a pass.

    window: items that are handed over at once, at least a batch: a text model sorts them by length. wants: the width and height that an
    image is scaled down to cover, so that its reader (`read_image`) may skip what is finer; None for texts, or where all pixels count.
    """

    modality: Modality
    dim: int
    batch_size: int
    window: int
    decode_size: tuple[int, int] | None

    def preprocess(self, item: Any) -> Any:
        """What `encode` takes for one item: for an image, its pixels at the model's own size. Called from several threads at once."""
        ...

    def encode(self, prepared: Sequence[Any], batch_size: int) -> EncodedItems:
        """Vectors of prepared items, in their order."""
        ...


@runtime_checkable
class SupportsTexts(Protocol):
    """An encoder of images that puts texts into the same space."""

    @property
    def text_encoder(self) -> Encoder:
        """An encoder of texts by the same loaded model."""
        ...


def encode_items(encoder: Encoder, items: Sequence[Any]) -> EncodedItems:
    """Vectors of a handful of items, none of them prepared."""
    return encode_batches(encoder, [encoder.preprocess(item) for item in items])


def encode_batches(encoder: Encoder, prepared: Sequence[Any], advance: Advance = lambda finished: None) -> EncodedItems:
    """Encode prepared items window by window. When memory runs out the batch is halved, for good, and the window tried again."""
    encoded = EncodedItems(np.empty((len(prepared), encoder.dim), dtype=np.float32), np.zeros(len(prepared), dtype=bool))
    start = 0
    while start < len(prepared):
        done = slice(start, start + len(prepared[start : start + max(encoder.window, encoder.batch_size)]))
        try:
            encoded.vectors[done], encoded.truncated[done] = encoder.encode(prepared[done], encoder.batch_size)
        except Exception as problem:
            if not is_out_of_memory(problem) or encoder.batch_size == 1:
                raise
            encoder.batch_size //= 2
            encoder.window = max(encoder.batch_size, encoder.window // 2)
            continue
        start = done.stop
        advance(done.stop - done.start)
    return encoded


# By torch's own allocators, oneDNN (which says no more than this when its scratch memory does not fit), C++, the kernel, and the GPU's
# libraries. A batch of one that still fails raises what it was, so a fault that only sounds like these is not hidden.
OOM_MESSAGES = (
    "can't allocate memory", "not enough memory", "could not create a primitive", "could not create a memory",
    "could not execute a primitive", "bad_alloc", "Cannot allocate memory", "STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(problem: Exception) -> bool:
    """Python's, CUDA's (torch.OutOfMemoryError) and the CPU libraries' ways of saying that memory ran out."""
    return (
        isinstance(problem, MemoryError)
        or type(problem).__name__ == "OutOfMemoryError"
        or (isinstance(problem, RuntimeError) and any(words in str(problem) for words in OOM_MESSAGES))
    )
