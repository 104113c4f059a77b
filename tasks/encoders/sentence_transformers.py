"""Texts by a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer

from indexmill.configs.encoders import Precision, SentenceTransformersEncoder
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.encoders.encoding import Encoded
from indexmill.tasks.encoders.forward import by_length, device, finished, moved, settled
from indexmill.tasks.encoders.locating import locate_sentence_transformer

DEFAULT_BATCH = 64
WINDOW = 2048
UNPADDED: dict[str, Any] = {"common": {"return_tensors": None}, "text": {"padding": False}}
UNCUT: dict[str, Any] = {"common": {"return_tensors": None}, "text": {"padding": False, "truncation": False}}


class SentenceTransformersModel:
    """A sentence-transformers model, on a GPU if there is one. It cuts texts at its own number of tokens.

    Each window is cut into tokens at once and sorted by length. A model without a transformer (static word vectors, bags of words) goes
    through the library's own loop, and is taken to see its texts whole.
    """

    modality: Modality = "text"
    wants: tuple[int, int] | None = None

    def __init__(self, config: SentenceTransformersEncoder, precision: Precision) -> None:
        path = str(locate_sentence_transformer(config.model))
        self._model = settled(SentenceTransformer(path, device=str(device()), local_files_only=True), precision)
        self._transformer = isinstance(self._model[0], Transformer) and self._model.tokenizer is not None
        if self._transformer:
            _silence(self._model.tokenizer)
        self._prompt = self._model.prompts.get(self._model.default_prompt_name) if self._model.default_prompt_name else None
        self._normalize = config.normalize
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = max(WINDOW, self.batch_size)

    def export(self, graph: Path, tokenizer: Path) -> str:
        """Write the model as an ONNX graph and a tokenizer; the prompt that goes before every text. Raises InputError for one that has no
        such form: without a transformer, without a tokenizer of the fast kind, or in another precision than float32.
        """
        from indexmill.tasks.encoders.exporting import write_graph, write_tokenizer  # here: only for those who have ONNX

        if not self._transformer or not self._model.tokenizer.is_fast or self._model.dtype != torch.float32:
            raise InputError("this model cannot be written as a graph", expected="a transformer in float32 with a fast tokenizer")
        self._model.to("cpu")
        try:
            write_graph(self._model, self.dim, graph, normalize=self._normalize)
        finally:
            self._model.to(device())
        write_tokenizer(self._model, tokenizer)
        return self._prompt or ""

    def prepare(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> Encoded:
        """float32 (n, dim) for n texts."""
        if not self._transformer:
            features = self._model.encode(list(prepared), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True)
            return Encoded(finished(features, normalize=self._normalize), np.zeros(len(prepared), dtype=bool))
        tokens = self._tokens(prepared, UNPADDED)
        lengths = [len(row) for row in tokens["input_ids"]]
        vectors = np.empty((len(prepared), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in by_length(lengths, batch_size):
                vectors[batch] = finished(self._forward(tokens, batch), normalize=self._normalize)
        return Encoded(vectors, self._truncated(prepared, lengths))

    def _tokens(self, texts: Sequence[str], choices: dict[str, Any]) -> dict[str, Any]:
        return dict(self._model.preprocess(list(texts), prompt=self._prompt, processing_kwargs=choices))

    def _forward(self, tokens: Mapping[str, Any], batch: np.ndarray) -> torch.Tensor:
        """(n, dim) of some of the window's texts, padded to the longest of them."""
        rows = {name: [values[place] for place in batch] for name, values in tokens.items() if isinstance(values, list)}
        padded = self._model.tokenizer.pad(rows, return_tensors="pt")
        features = {name: value for name, value in tokens.items() if not isinstance(value, list)}
        features |= {name: moved(value) for name, value in padded.items()}
        embedding: torch.Tensor = self._model(features)["sentence_embedding"]
        return embedding[:, : self.dim]

    def _truncated(self, texts: Sequence[str], lengths: Sequence[int]) -> np.ndarray:
        """bool (n,): only a text that fills the model's length can have been cut, so only those are cut into tokens once more."""
        cut = np.zeros(len(texts), dtype=bool)
        most = self._model.max_seq_length or max(lengths)
        full = [place for place, length in enumerate(lengths) if length >= most]
        if full:
            whole = self._tokens([texts[place] for place in full], UNCUT)["input_ids"]
            cut[full] = [len(row) > lengths[place] for place, row in zip(full, whole, strict=True)]
        return cut


def _silence(tokenizer: Any) -> None:
    """It would warn of long texts, which are only counted, and of padding apart from cutting, which is what sorting needs."""
    for warning in ("sequence-length-is-longer-than-the-specified-maximum", "Asking-to-pad-a-fast-tokenizer"):
        tokenizer.deprecation_warnings[warning] = True
