"""Which model exactly: found from files and versions, without loading it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from indexmill.configs.encoders import EncoderConfig, OpenClipEncoder, Precision, SentenceTransformersEncoder, TimmEncoder
from indexmill.storage.digests import file_digest, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Frozen, Modality
from indexmill.tasks.encoders.checkpoints import Checkpoint, find_open_clip, find_timm, folder_weights
from indexmill.tasks.encoders.locating import CONFIGURATION, locate, locate_sentence_transformer, model_files

LIBRARIES = {
    "sentence-transformers": ("sentence-transformers", "transformers", "torch"),
    "efficientnet-lite": ("efficientnet-lite-pytorch", "pillow", "torch"),
    "open-clip": ("open_clip_torch", "pillow", "timm", "torch", "torchvision"),
    "timm": ("pillow", "timm", "torch", "torchvision"),
}
# What each kind takes; the first is the side that it is named for.
MODALITIES: dict[str, tuple[Modality, ...]] = {
    "sentence-transformers": ("text",),
    "efficientnet-lite": ("image",),
    "open-clip": ("image", "text"),
    "timm": ("image",),
}
# Raised when an encoder file changes what comes out.
ENCODER_VERSIONS = {"sentence-transformers": 1, "efficientnet-lite": 2, "open-clip": 2, "timm": 2}


class Identity(Frozen):
    """fingerprint names the embedding store: equal fingerprints mean interchangeable vectors. details says what it was made from."""

    fingerprint: str
    details: dict[str, Any]

    def of(self, modality: Modality, precision: Precision, stored: str = "float32") -> Identity:
        """The identity of the store of one side of the encoder, in that precision, its numbers kept as `stored`."""
        details = self.details | {"precision": precision, "stored": stored}
        if modality != MODALITIES[details["kind"]][0]:
            details["side"] = modality
        return Identity(fingerprint=_fingerprint(details), details=details)


def identify(config: EncoderConfig, precision: Precision = "float32") -> Identity:
    """The identity of the encoder that a config names, when it runs in that precision.

    Raises InputError when its weights are not there or not the expected ones, SourceUnreachable when the hub that has them does not answer.
    """
    weights, choices = _weights(config)
    details: dict[str, Any] = {
        "kind": config.kind,
        "model": config.model,
        "encoder_version": ENCODER_VERSIONS[config.kind],
        "libraries": {name: version(name) for name in LIBRARIES[config.kind]},
        "weights": weights,
        "precision": precision,
        "normalize": config.normalize,
        **choices,
    }
    if config.weights_sha256 and config.weights_sha256 not in weights.values():
        raise InputError(
            "the model's weights are not the expected ones",
            where=f"encoder.model = {config.model}",
            expected=f"a file with SHA-256 {config.weights_sha256}",
            got=", ".join(f"{name} {digest}" for name, digest in weights.items()),
            next_step="install the package again, or mend encoder.weights_sha256",
        )
    return Identity(fingerprint=_fingerprint(details), details=details)


def _fingerprint(details: dict[str, Any]) -> str:
    # Where the weights lie is no part of what they are.
    return json_digest({**details, "model": None})[:32]


def _weights(config: EncoderConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """The digests of the files that decide what the encoder computes, and what else it takes of its library."""
    match config:
        case OpenClipEncoder():
            return _of_checkpoint(find_open_clip(config))
        case TimmEncoder():
            return _of_checkpoint(find_timm(config))
        case SentenceTransformersEncoder():
            path = locate_sentence_transformer(config.model)
        case _:
            path = locate(config.model)
    return {file.relative_to(path).as_posix() if path.is_dir() else file.name: file_digest(file) for file in model_files(path)}, {}


def _of_checkpoint(checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, Any]]:
    """As `_weights`. A checkpoint's name is part of where it lies, so it is not told."""
    path, choices = checkpoint.path, {"architecture": checkpoint.architecture, "pretrained": checkpoint.tag}
    if path.is_file():
        return {"checkpoint": file_digest(path)}, choices
    configuration = {file.name: file_digest(file) for file in sorted(path.iterdir()) if file.suffix in CONFIGURATION}
    return {"checkpoint": file_digest(folder_weights(path) or path), **configuration}, choices
