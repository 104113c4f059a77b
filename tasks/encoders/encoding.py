"""What an encoder is, and encoding in batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from indexmill.storage.records import Modality
from indexmill.tasks.encoders.memory import out_of_memory
from indexmill.tasks.progress import Advance


class Encoded(NamedTuple):
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
    wants: tuple[int, int] | None

    def prepare(self, item: Any) -> Any:
        """What `encode` takes for one item: for an image, its pixels at the model's own size. Called from several threads at once."""
        ...

    def encode(self, prepared: Sequence[Any], batch_size: int) -> Encoded:
        """Vectors of prepared items, in their order."""
        ...


@runtime_checkable
class EncodesTextsToo(Protocol):
    """An encoder of images that puts texts into the same space."""

    @property
    def texts(self) -> Encoder:
        """An encoder of texts by the same loaded model."""
        ...


def encode_items(encoder: Encoder, items: Sequence[Any]) -> Encoded:
    """Vectors of a handful of items, none of them prepared."""
    return encode_batches(encoder, [encoder.prepare(item) for item in items])


def encode_batches(encoder: Encoder, prepared: Sequence[Any], advance: Advance = lambda finished: None) -> Encoded:
    """Encode prepared items window by window. When memory runs out the batch is halved, for good, and the window tried again."""
    encoded = Encoded(np.empty((len(prepared), encoder.dim), dtype=np.float32), np.zeros(len(prepared), dtype=bool))
    start = 0
    while start < len(prepared):
        done = slice(start, start + len(prepared[start : start + max(encoder.window, encoder.batch_size)]))
        try:
            encoded.vectors[done], encoded.truncated[done] = encoder.encode(prepared[done], encoder.batch_size)
        except Exception as problem:
            if not out_of_memory(problem) or encoder.batch_size == 1:
                raise
            encoder.batch_size //= 2
            encoder.window = max(encoder.batch_size, encoder.window // 2)
            continue
        start = done.stop
        advance(done.stop - done.start)
    return encoded
