"""Load the encoder of a snapshot to encode queries."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.embedding_store import shorten_vectors
from indexmill.storage.errors import InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding import Encoder, identify, load_encoder
from indexmill.tasks.encoding.base import SupportsTexts, encode_batches
from indexmill.tasks.encoding.identity import compute_export_fingerprint, matches_fingerprint
from indexmill.tasks.encoding.onnx_encoders import open_onnx_encoder
from indexmill.tasks.encoding.prompts import ROLES


class QueryEncoder:
    """The encoder of a snapshot as it encodes queries, loaded on first use; safe to share between threads and snapshots.

    An ONNX export is of the very encoder that built the snapshot. Without one, loading raises InputError if the installed
    encoder has another fingerprint (other weights, libraries or precision): its vectors would not be comparable with those
    in the index.
    """

    def __init__(self, root: Root, manifest: Manifest) -> None:
        self.identity = get_query_identity(manifest)
        self._root, self._manifest = root, manifest
        self._config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(manifest.config["encoder"])
        self._model: Encoder | None = None
        self._encoders: dict[Modality, Encoder] = {}
        self._load_lock, self._encode_lock = Lock(), Lock()

    def load(self, modality: Modality) -> Encoder:
        """Return what encodes one modality. Concurrent first calls load it once.

        An ONNX export needs neither torch nor the weights, and computes in float32. Without one, the model itself is loaded.
        """
        with self._load_lock:
            if modality not in self._encoders:
                self._encoders[modality] = self._open_export(modality) or self._load_from_model(modality)
            return self._encoders[modality]

    def _open_export(self, modality: Modality) -> Encoder | None:
        details = self._manifest.encoder
        if not matches_fingerprint(details, self._manifest.fingerprint):
            return None
        return open_onnx_encoder(self._root, compute_export_fingerprint(details, self._config, modality), modality)

    def _load_from_model(self, modality: Modality) -> Encoder:
        if self._model is None:
            _check_installed_encoder(self._manifest, self._config)
            self._model = load_encoder(self._config, self._manifest.encoder["precision"], "query")
        model: Any = self._model
        return model.text_encoder if modality == "text" and isinstance(model, SupportsTexts) else model

    def preprocess(self, item: Any, modality: Modality) -> Any:
        """Prepare a text, or an image at the model's size. Several threads may call this at once."""
        return self.load(modality).preprocess(item)

    def encode(self, prepared: Sequence[Any], modality: Modality) -> np.ndarray:
        """Encode prepared items as float32 (n, dim). Calls from several threads run one after another."""
        encoder = self.load(modality)
        with self._encode_lock:
            vectors = encode_batches(encoder, prepared).vectors
        if self._config.dimensions is None:
            return vectors
        return shorten_vectors(vectors, self._config.dimensions, normalize=self._config.normalize)


def get_query_identity(manifest: Manifest) -> tuple[object, ...]:
    """Return what determines how the queries of a snapshot are encoded."""
    return manifest.fingerprint, manifest.query_fingerprint, manifest.prompts


def check_fingerprint(manifest: Manifest, fingerprint: str, query_fingerprint: str = "") -> None:
    """Raise InputError if the fingerprints are not those of the encoder that built the snapshot.

    Args:
        manifest: The snapshot's manifest.
        fingerprint: That of the installed encoder.
        query_fingerprint: That of the same encoder for queries; checked if the manifest has one.
    """
    if fingerprint != manifest.fingerprint or (manifest.query_fingerprint and query_fingerprint != manifest.query_fingerprint):
        versions = manifest.encoder.get("libraries") or {}
        libraries = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        raise InputError(
            "the installed encoder is not the one that built this snapshot; its scores would be meaningless",
            where=f"index {manifest.name}, snapshot {manifest.snapshot_id}",
            expected=f"fingerprint {manifest.fingerprint}" + (f", with {libraries}" if libraries else ""),
            got=f"fingerprint {fingerprint}",
            next_step=f"run `indexmill build {manifest.name}`, or install these versions of the libraries",
        )


def _check_installed_encoder(manifest: Manifest, config: EncoderConfig) -> None:
    """Raise InputError if the installed encoder is not the one that built the snapshot."""
    precision, identity = manifest.encoder["precision"], identify(config)
    fingerprints = (
        identity.for_role(role)
        .for_store(manifest.index_modality, precision, config.storage_dtype)
        .with_dimensions(config.dimensions)
        .fingerprint
        for role in ROLES
    )
    check_fingerprint(manifest, *fingerprints)
