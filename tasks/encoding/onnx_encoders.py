"""Run an encoder that was exported to ONNX, without importing torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexmill.storage.onnx_exports import ExportSettings, ImageResize, is_damaged, load_onnx_export
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding.base import EncodedItems, Encoder
from indexmill.tasks.encoding.image_resize import ResizePixels, get_decode_size, resize_image
from indexmill.tasks.encoding.numpy_resize import resize_pixels

TEXT_BATCH_SIZE, IMAGE_BATCH_SIZE = 64, 16
TEXT_WINDOW_SIZE = 2048  # texts that are sorted by length, so that those of a batch are alike
RUNTIME_PACKAGES = ("onnxruntime", "tokenizers")

log = logging.getLogger("indexmill.encoding")


class OnnxTextEncoder:
    """A text encoder that runs a graph and a tokenizer as `indexmill.tasks.encoding.onnx_writer` writes them.

    Args:
        graph_path: The ONNX graph.
        tokenizer_path: The tokenizer, as JSON.
        settings: The prompt, and what the tokenizer takes.
        dim: Length of the vectors.
        threads: Threads of one forward pass; 0: one per core.
    """

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, graph_path: Path, tokenizer_path: Path, settings: ExportSettings, dim: int, threads: int = 0) -> None:
        from tokenizers import Tokenizer

        self._session = _open_session(graph_path, threads)
        self._input_names = [node.name for node in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        self._prompt, self._takes_words, self.dim = settings.prompt, settings.tokenization == "clip", dim
        self.batch_size, self.window = TEXT_BATCH_SIZE, TEXT_WINDOW_SIZE

    def preprocess(self, item: str) -> str:
        """Return the text itself: `encode` tokenizes it."""
        return item

    def encode(self, inputs: Sequence[str], batch_size: int) -> EncodedItems:
        """Encode n texts: vectors float32 (n, dim). Texts of similar length share a batch."""
        encoded = EncodedItems(np.empty((len(inputs), self.dim), np.float32), np.zeros(len(inputs), bool))
        order = sorted(range(len(inputs)), key=lambda position: len(inputs[position]))
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            encodings = self._tokenize([self._prompt + inputs[position] for position in positions])
            token_arrays = {
                "input_ids": [encoding.ids for encoding in encodings],
                "attention_mask": [encoding.attention_mask for encoding in encodings],
                "token_type_ids": [encoding.type_ids for encoding in encodings],
            }
            feeds = {name: np.array(token_arrays[name], np.int64) for name in self._input_names}
            encoded.vectors[positions] = self._session.run(None, feeds)[0]
            encoded.truncated[positions] = [bool(encoding.overflowing) for encoding in encodings]
        return encoded

    def _tokenize(self, texts: list[str]) -> list[Any]:
        if not self._takes_words:
            return self._tokenizer.encode_batch(texts)
        # Imported here: its libraries come with open_clip, and only its models need them.
        from indexmill.tasks.encoding.clip_tokenizer import split_words

        return self._tokenizer.encode_batch([split_words(text) for text in texts], is_pretokenized=True)


class OnnxImageEncoder:
    """An image encoder that runs a graph as `indexmill.tasks.encoding.onnx_writer` writes it.

    Args:
        graph_path: The ONNX graph.
        resize: How images are resized for it.
        dim: Length of the vectors.
        threads: Threads of one forward pass; 0: one per core.
        resize_function: What resizes pixels; by default NumPy, so that torch is not imported.
    """

    modality: Modality = "image"

    def __init__(
        self, graph_path: Path, resize: ImageResize, dim: int, threads: int = 0, resize_function: ResizePixels | None = None
    ) -> None:
        self._session, self._resize, self.dim = _open_session(graph_path, threads), resize, dim
        self._resize_function = resize_function or resize_pixels
        self.decode_size: tuple[int, int] | None = get_decode_size(resize)
        self.batch_size = self.window = IMAGE_BATCH_SIZE

    def preprocess(self, item: Image.Image) -> np.ndarray:
        """Resize an RGB image: uint8 (height, width, 3) at the model's size."""
        return resize_image(item, self._resize, self._resize_function)

    def encode(self, inputs: Sequence[np.ndarray], batch_size: int) -> EncodedItems:
        """Encode n resized images: vectors float32 (n, dim)."""
        starts = range(0, len(inputs), batch_size)
        batches = [self._session.run(None, {"pixels": np.stack(inputs[start : start + batch_size])})[0] for start in starts]
        return EncodedItems(np.concatenate(batches), np.zeros(len(inputs), bool))


def load_onnx_encoder(graph_path: Path, tokenizer_path: Path, settings: ExportSettings, dim: int) -> Encoder:
    """Load an export: of images if it says how they are resized, else of texts."""
    if settings.resize is not None:
        return OnnxImageEncoder(graph_path, settings.resize, dim)
    return OnnxTextEncoder(graph_path, tokenizer_path, settings, dim)


def open_onnx_encoder(root: Root, fingerprint: str, modality: Modality) -> Encoder | None:
    """Open the export of an encoder.

    Args:
        root: The storage root.
        fingerprint: What names the export (`EncoderIdentity.for_export`).
        modality: What it encodes.

    Returns:
        The export; None if there is none, if it is damaged or not accurate enough, or if it cannot run here.
    """
    export = load_onnx_export(root, fingerprint, modality)
    if export is None or not export.passes or export.graph is None or is_damaged(root, export) or not can_run_onnx():
        return None
    try:
        graph_path, tokenizer_path = root.file(export.graph), root.file(export.tokenizer or export.graph)
        return load_onnx_encoder(graph_path, tokenizer_path, export.settings, export.dim)
    except Exception as error:  # an onnxruntime that cannot read the graph raises its own errors
        log.warning("cannot open the ONNX export, using the encoder itself: %s", error)
        return None


def can_run_onnx() -> bool:
    """Return whether the libraries that run an export are installed."""
    return all(find_spec(name) for name in RUNTIME_PACKAGES)


def _open_session(graph_path: Path, threads: int = 0) -> Any:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Without this, waiting threads spin and take the cores from the server.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph_path), options, providers=["CPUExecutionProvider"])
