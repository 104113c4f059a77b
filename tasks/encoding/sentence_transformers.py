"""Encode texts with a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.router import Router
from sentence_transformers.base.modules.transformer import Transformer

from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import ExportSettings
from indexmill.storage.records import Modality, Precision, Role
from indexmill.tasks.encoding.base import EncodedItems, batch_by_length
from indexmill.tasks.encoding.model_files import find_sentence_transformer_folder
from indexmill.tasks.encoding.prompts import resolve_prompts
from indexmill.tasks.encoding.torch_runtime import (
    get_device,
    hold_on_cpu,
    move_model_to_device,
    move_tensor_to_device,
    to_float32_array,
)

DEFAULT_BATCH_SIZE = 64
WINDOW_SIZE = 2048
NO_PADDING: dict[str, Any] = {"common": {"return_tensors": None}, "text": {"padding": False}}
NO_TRUNCATION: dict[str, Any] = {"common": {"return_tensors": None}, "text": {"padding": False, "truncation": False}}


class SentenceTransformersModel:
    """A sentence-transformers model. It truncates texts at its own number of tokens.

    Each window is tokenized at once and sorted by length. A model without a transformer (static word vectors, bags of
    words) goes through the library's own loop and is assumed to see whole texts. A model with a module for each role (the
    library's `Router`) uses that of its role.
    """

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, config: SentenceTransformersEncoderConfig, precision: Precision, role: Role = "document") -> None:
        path = str(find_sentence_transformer_folder(config.model))
        self._model = move_model_to_device(SentenceTransformer(path, device=str(get_device()), local_files_only=True), precision)
        self._role, self._prompt = role, resolve_prompts(config)[role]
        self._input_module = _find_input_module(self._model, role)
        self._tokenizer: Any = getattr(self._input_module, "tokenizer", None)
        # A transformer that expands its queries pads them in its own way.
        is_expanded = role == "query" and getattr(self._input_module, "query_expansion", None)
        self._has_transformer = isinstance(self._input_module, Transformer) and self._tokenizer is not None and not is_expanded
        if self._has_transformer:
            _silence_tokenizer_warnings(self._tokenizer)
        self._normalize = config.normalize
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = max(WINDOW_SIZE, self.batch_size)

    def export(self, graph_path: Path, tokenizer_path: Path) -> ExportSettings:
        """Write the model as an ONNX graph and a tokenizer; return what precedes every text.

        Raises:
            InputError: The model has no transformer, no fast tokenizer, or another precision than float32.
        """
        # Imported here: only exports need it.
        from indexmill.tasks.encoding.onnx_writer import write_text_graph, write_tokenizer

        is_exportable = self._input_module is self._model[0] and self._has_transformer and self._tokenizer.is_fast
        if not is_exportable or self._model.dtype != torch.float32:
            raise InputError("this model cannot be exported to ONNX", expected="a transformer in float32 with a fast tokenizer")
        with hold_on_cpu(self._model):
            write_text_graph(self._model, self.dim, graph_path, normalize=self._normalize)
        write_tokenizer(self._model, tokenizer_path)
        return ExportSettings(prompt=self._prompt)

    def preprocess(self, item: str) -> str:
        """Return the text itself: `encode` tokenizes it."""
        return item

    def encode(self, inputs: Sequence[str], batch_size: int) -> EncodedItems:
        """Encode n texts: vectors float32 (n, dim)."""
        if not self._has_transformer:
            options: dict[str, Any] = {"show_progress_bar": False, "convert_to_tensor": True, "task": self._role}
            features = self._model.encode(list(inputs), prompt=self._prompt, batch_size=batch_size, **options)
            return EncodedItems(to_float32_array(features, normalize=self._normalize), np.zeros(len(inputs), dtype=bool))
        tokens = self._tokenize(inputs, NO_PADDING)
        lengths = [len(token_ids) for token_ids in tokens["input_ids"]]
        vectors = np.empty((len(inputs), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in batch_by_length(lengths, batch_size):
                vectors[batch] = to_float32_array(self._forward(tokens, batch), normalize=self._normalize)
        return EncodedItems(vectors, self._find_truncated(inputs, lengths))

    def _tokenize(self, texts: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        return dict(self._model.preprocess(list(texts), prompt=self._prompt, task=self._role, processing_kwargs=options))

    def _forward(self, tokens: Mapping[str, Any], batch: np.ndarray) -> torch.Tensor:
        """Compute (n, dim) vectors of n texts of the window, padded to the longest of them."""
        rows = {name: [values[position] for position in batch] for name, values in tokens.items() if isinstance(values, list)}
        padded = self._tokenizer.pad(rows, return_tensors="pt")
        features = {name: value for name, value in tokens.items() if not isinstance(value, list)}
        features |= {name: move_tensor_to_device(value) for name, value in padded.items()}
        embedding: torch.Tensor = self._model(features, task=self._role)["sentence_embedding"]
        return embedding[:, : self.dim]

    def _find_truncated(self, texts: Sequence[str], lengths: Sequence[int]) -> np.ndarray:
        """Return bool (n,): which texts were truncated. Only those at the maximum length are tokenized again."""
        truncated = np.zeros(len(texts), dtype=bool)
        limits = (self._input_module.max_seq_length, getattr(self._input_module, f"{self._role}_length", None))
        max_length = min((limit for limit in limits if limit), default=max(lengths))
        candidates = [position for position, length in enumerate(lengths) if length >= max_length]
        if candidates:
            full_ids = self._tokenize([texts[position] for position in candidates], NO_TRUNCATION)["input_ids"]
            truncated[candidates] = [len(ids) > lengths[position] for position, ids in zip(candidates, full_ids, strict=True)]
        return truncated


def _find_input_module(model: SentenceTransformer, role: Role) -> Any:
    """Return the module that tokenizes the texts of a role."""
    first: Any = model[0]
    if not isinstance(first, Router):
        return first
    routes: Any = first.sub_modules
    return routes[str(first._resolve_route(task=role, modality="text"))][0]


def _silence_tokenizer_warnings(tokenizer: Any) -> None:
    """Silence warnings about long texts, which are counted, and about separate padding, which sorting needs."""
    for warning in ("sequence-length-is-longer-than-the-specified-maximum", "Asking-to-pad-a-fast-tokenizer"):
        tokenizer.deprecation_warnings[warning] = True
