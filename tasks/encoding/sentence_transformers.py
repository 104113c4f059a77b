"""Encode texts with a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer

from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality, Precision
from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.model_files import find_sentence_transformer_folder
from indexmill.tasks.encoding.torch_runtime import batch_by_length, device, move_model_to_device, move_tensor_to_device, to_float32_array

DEFAULT_BATCH_SIZE = 64
WINDOW_SIZE = 2048
NO_PADDING: dict[str, Any] = {"common": {"return_tensors": None}, "text": {"padding": False}}
NO_TRUNCATION: dict[str, Any] = {"common": {"return_tensors": None}, "text": {"padding": False, "truncation": False}}


class SentenceTransformersModel:
    """A sentence-transformers model, on a GPU if there is one. It cuts texts at its own number of tokens.

    Each window is cut into tokens at once and sorted by length. A model without a transformer (static word vectors, bags of words) goes
    through the library's own loop, and is taken to see its texts whole.
    """

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, config: SentenceTransformersEncoderConfig, precision: Precision) -> None:
        path = str(find_sentence_transformer_folder(config.model))
        self._model = move_model_to_device(SentenceTransformer(path, device=str(device()), local_files_only=True), precision)
        self._has_transformer = isinstance(self._model[0], Transformer) and self._model.tokenizer is not None
        if self._has_transformer:
            _silence_tokenizer_warnings(self._model.tokenizer)
        self._prompt = self._model.prompts.get(self._model.default_prompt_name) if self._model.default_prompt_name else None
        self._normalize = config.normalize
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = max(WINDOW_SIZE, self.batch_size)

    def export(self, graph: Path, tokenizer: Path) -> str:
        """Write the model as an ONNX graph and a tokenizer; the prompt that goes before every text. Raises InputError for one that has no
        such form: without a transformer, without a tokenizer of the fast kind, or in another precision than float32.
        """
        from indexmill.tasks.encoding.onnx_writer import write_graph, write_tokenizer  # here: only for those who have ONNX

        if not self._has_transformer or not self._model.tokenizer.is_fast or self._model.dtype != torch.float32:
            raise InputError("this model cannot be written as a graph", expected="a transformer in float32 with a fast tokenizer")
        self._model.to("cpu")
        try:
            write_graph(self._model, self.dim, graph, normalize=self._normalize)
        finally:
            self._model.to(device())
        write_tokenizer(self._model, tokenizer)
        return self._prompt or ""

    def preprocess(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> EncodedItems:
        """float32 (n, dim) for n texts."""
        if not self._has_transformer:
            features = self._model.encode(list(prepared), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True)
            return EncodedItems(to_float32_array(features, normalize=self._normalize), np.zeros(len(prepared), dtype=bool))
        tokens = self._tokenize(prepared, NO_PADDING)
        lengths = [len(row) for row in tokens["input_ids"]]
        vectors = np.empty((len(prepared), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in batch_by_length(lengths, batch_size):
                vectors[batch] = to_float32_array(self._forward(tokens, batch), normalize=self._normalize)
        return EncodedItems(vectors, self._find_truncated(prepared, lengths))

    def _tokenize(self, texts: Sequence[str], choices: dict[str, Any]) -> dict[str, Any]:
        return dict(self._model.preprocess(list(texts), prompt=self._prompt, processing_kwargs=choices))

    def _forward(self, tokens: Mapping[str, Any], batch: np.ndarray) -> torch.Tensor:
        """(n, dim) of some of the window's texts, padded to the longest of them."""
        rows = {name: [values[position] for position in batch] for name, values in tokens.items() if isinstance(values, list)}
        padded = self._model.tokenizer.pad(rows, return_tensors="pt")
        features = {name: value for name, value in tokens.items() if not isinstance(value, list)}
        features |= {name: move_tensor_to_device(value) for name, value in padded.items()}
        embedding: torch.Tensor = self._model(features)["sentence_embedding"]
        return embedding[:, : self.dim]

    def _find_truncated(self, texts: Sequence[str], lengths: Sequence[int]) -> np.ndarray:
        """bool (n,): only a text that fills the model's length can have been cut, so only those are cut into tokens once more."""
        cut = np.zeros(len(texts), dtype=bool)
        most = self._model.max_seq_length or max(lengths)
        full = [position for position, length in enumerate(lengths) if length >= most]
        if full:
            whole = self._tokenize([texts[position] for position in full], NO_TRUNCATION)["input_ids"]
            cut[full] = [len(row) > lengths[position] for position, row in zip(full, whole, strict=True)]
        return cut


def _silence_tokenizer_warnings(tokenizer: Any) -> None:
    """It would warn of long texts, which are only counted, and of padding apart from cutting, which is what sorting needs."""
    for warning in ("sequence-length-is-longer-than-the-specified-maximum", "Asking-to-pad-a-fast-tokenizer"):
        tokenizer.deprecation_warnings[warning] = True
