"""Texts by a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

from configs.models import Precision, SentenceTransformersEncoder
from storage.records import Modality
from tasks.encoders.encoding import Encoded
from tasks.encoders.forward import device, finished, settled
from tasks.encoders.locating import locate_sentence_transformer

DEFAULT_BATCH = 64


class SentenceTransformersModel:
    """A sentence-transformers model. It sorts each window by length and cuts texts at its own maximum."""

    modality: Modality = "text"

    def __init__(self, config: SentenceTransformersEncoder, precision: Precision) -> None:
        path = str(locate_sentence_transformer(config.model))
        self._model = settled(SentenceTransformer(path, device=str(device()), local_files_only=True), precision)
        self._normalize = config.normalize
        self.dim = int(self._model.get_embedding_dimension() or 0)
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = max(512, self.batch_size)

    def prepare(self, item: str) -> str:
        """The text itself: the model cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> Encoded:
        """float32 (n, dim) for n texts."""
        features = self._model.encode(list(prepared), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True)
        return Encoded(finished(features, normalize=self._normalize), np.zeros(len(prepared), dtype=bool))
