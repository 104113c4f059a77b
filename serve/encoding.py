"""The encoder that made a snapshot, loaded to encode what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.records import Modality
from indexmill.tasks.encoders import Encoder, identify, load_encoder
from indexmill.tasks.encoders.encoding import EncodesTextsToo, encode_batches
from indexmill.tasks.encoders.exported import open_export
from indexmill.tasks.indexes.published import PublishedIndex


class QueryEncoder:
    """The encoder of a snapshot, loaded when first needed. Raises InputError where the one that is here is another.

    Another means another fingerprint: other weights, libraries or precision, so that its vectors would mean nothing in the index.
    """

    def __init__(self, index: PublishedIndex) -> None:
        self.fingerprint = index.manifest.fingerprint
        self._model: PublishedIndex | Encoder = index  # until the model takes its place: an encoder outlives the snapshot
        self._loading, self._encoding = Lock(), Lock()

    def load(self) -> Encoder:
        """The model, after its fingerprint was compared. However many threads ask, it is loaded once."""
        with self._loading:
            if isinstance(self._model, PublishedIndex):
                self._model = _load(self._model)
            return self._model

    def side(self, modality: Modality) -> Encoder:
        """What encodes one modality."""
        encoder: Any = self.load()
        return encoder.texts if modality == "text" and isinstance(encoder, EncodesTextsToo) else encoder

    def prepare(self, item: Any, modality: Modality) -> Any:
        """A text, or the pixels of an image at the model's size. Several threads may do this at once."""
        return self.side(modality).prepare(item)

    def encode(self, prepared: Sequence[Any], modality: Modality) -> np.ndarray:
        """float32 (n, dim) of prepared items. Threads wait for one another."""
        side = self.side(modality)
        with self._encoding:
            return encode_batches(side, prepared).vectors


def _load(index: PublishedIndex) -> Encoder:
    """Without torch, where an export of the encoder of texts is at hand; it computes in float32, whatever the index's precision."""
    manifest = index.manifest
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(manifest.config["encoder"])
    precision, identity = manifest.encoder["precision"], identify(config)
    index.accept(identity.of(manifest.holds, precision, config.store).fingerprint)
    return open_export(index.root, identity.fingerprint) or load_encoder(config, precision)
