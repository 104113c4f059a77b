"""Load the encoder of a snapshot to encode queries."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from indexmill.configs.encoders import EncoderConfig
from indexmill.serve.published import PublishedIndex
from indexmill.storage.records import Modality
from indexmill.tasks.encoding import Encoder, identify, load_encoder
from indexmill.tasks.encoding.base import SupportsTexts, encode_batches
from indexmill.tasks.encoding.onnx import open_onnx_encoder


class QueryEncoder:
    """The encoder of a snapshot, loaded when first needed. Raises InputError where the one that is here is another.

    Another means another fingerprint: other weights, libraries or precision, so that its vectors would mean nothing in the index.
    """

    def __init__(self, index: PublishedIndex) -> None:
        self.fingerprint = index.manifest.fingerprint
        self._model: PublishedIndex | Encoder = index  # until the model takes its place: an encoder outlives the snapshot
        self._load_lock, self._encode_lock = Lock(), Lock()

    def load(self) -> Encoder:
        """The model, after its fingerprint was compared. However many threads ask, it is loaded once."""
        with self._load_lock:
            if isinstance(self._model, PublishedIndex):
                self._model = _load_encoder(self._model)
            return self._model

    def side(self, modality: Modality) -> Encoder:
        """What encodes one modality."""
        encoder: Any = self.load()
        return encoder.text_encoder if modality == "text" and isinstance(encoder, SupportsTexts) else encoder

    def preprocess(self, item: Any, modality: Modality) -> Any:
        """A text, or the pixels of an image at the model's size. Several threads may do this at once."""
        return self.side(modality).preprocess(item)

    def encode(self, prepared: Sequence[Any], modality: Modality) -> np.ndarray:
        """float32 (n, dim) of prepared items. Threads wait for one another."""
        side = self.side(modality)
        with self._encode_lock:
            return encode_batches(side, prepared).vectors


def _load_encoder(index: PublishedIndex) -> Encoder:
    """Without torch, where an export of the encoder of texts is at hand; it computes in float32, whatever the index's precision."""
    manifest = index.manifest
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(manifest.config["encoder"])
    precision, identity = manifest.encoder["precision"], identify(config)
    index.check_fingerprint(identity.for_store(manifest.index_modality, precision, config.storage_dtype).fingerprint)
    return open_onnx_encoder(index.root, identity.fingerprint) or load_encoder(config, precision)
