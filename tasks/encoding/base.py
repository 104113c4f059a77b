"""The encoder protocol, and batch encoding that halves the batch size when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from indexmill.storage.onnx_exports import ExportSettings
from indexmill.storage.records import Modality
from indexmill.tasks.progress import Advance, ignore_progress


class EncodedItems(NamedTuple):
    """The vectors of some items.

    Attributes:
        vectors: float32 (n, dim).
        truncated: bool (n,), whether the model saw only the beginning of an item; always False for images.
    """

    vectors: np.ndarray
    truncated: np.ndarray


class Encoder(Protocol):
    """A loaded model for one modality.

    Attributes:
        modality: What it takes: texts (str) or images (RGB Pillow images).
        dim: Length of its vectors.
        batch_size: Items per forward pass.
        window: Items passed to `encode` at once, at least one batch; a text model sorts them by length.
        decode_size: Width and height that an image is scaled down to cover, so that `read_image` may decode a JPEG at a
            lower resolution; None for texts, or where every pixel counts.
    """

    modality: Modality
    dim: int
    batch_size: int
    window: int
    decode_size: tuple[int, int] | None

    def preprocess(self, item: Any) -> Any:
        """Return what `encode` takes for one item, such as an image's pixels at the model's size. Thread-safe."""
        ...

    def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
        """Encode preprocessed items, in order."""
        ...


@runtime_checkable
class SupportsTexts(Protocol):
    """An image encoder that also maps texts into the same space."""

    @property
    def text_encoder(self) -> Encoder:
        """The text encoder of the same loaded model."""
        ...


@runtime_checkable
class SupportsOnnxExport(Protocol):
    """An encoder that can be exported to ONNX."""

    def export(self, graph_path: Path, tokenizer_path: Path) -> ExportSettings:
        """Write the graph, and for texts the tokenizer; return how items are prepared for it.

        Raises:
            InputError: The model cannot be exported.
        """
        ...


def encode_items(encoder: Encoder, items: Sequence[Any]) -> EncodedItems:
    """Preprocess and encode a few items."""
    return encode_batches(encoder, [encoder.preprocess(item) for item in items])


def encode_batches(encoder: Encoder, inputs: Sequence[Any], advance: Advance = ignore_progress) -> EncodedItems:
    """Encode preprocessed items window by window.

    When memory runs out, the encoder's batch size is halved permanently and the window is tried again.
    """
    encoded = EncodedItems(np.empty((len(inputs), encoder.dim), dtype=np.float32), np.zeros(len(inputs), dtype=bool))
    start = 0
    while start < len(inputs):
        stop = min(len(inputs), start + max(encoder.window, encoder.batch_size))
        try:
            encoded.vectors[start:stop], encoded.truncated[start:stop] = encoder.encode(inputs[start:stop], encoder.batch_size)
        except Exception as error:
            if not is_out_of_memory(error) or encoder.batch_size == 1:
                raise
            encoder.batch_size //= 2
            encoder.window = max(encoder.batch_size, encoder.window // 2)
            continue
        advance(stop - start)
        start = stop
    return encoded


def batch_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches of positions, longest first.

    Texts of similar length share a batch, which saves padding; a batch that does not fit into memory fails first.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


# Messages of torch's allocators, oneDNN (which only reports this when its scratch memory does not fit), C++, the kernel
# and the GPU libraries. If a batch of one still fails, the original error is raised, so a false match hides nothing.
OOM_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
    "bad_alloc",
    "Cannot allocate memory",
    "STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of Python, CUDA (torch.OutOfMemoryError) or a CPU library means that memory ran out."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(message in str(error) for message in OOM_MESSAGES))
    )
