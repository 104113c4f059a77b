"""Compute an encoder's fingerprint from its files and library versions, without loading the model."""

from __future__ import annotations

from importlib.metadata import version
from operator import not_
from typing import Any

from pydantic import Field

from indexmill.configs.encoders import EncoderConfig, OpenClipEncoderConfig, SentenceTransformersEncoderConfig, TimmEncoderConfig
from indexmill.storage.digests import file_digest, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import FrozenModel, Modality, Precision, Role
from indexmill.tasks.encoding.checkpoints import Checkpoint, find_folder_weights, find_open_clip_checkpoint, find_timm_checkpoint
from indexmill.tasks.encoding.model_files import CONFIG_SUFFIXES, find_model_path, find_sentence_transformer_folder, list_model_files
from indexmill.tasks.encoding.prompts import describe_role, resolve_prompts

LIBRARIES = {
    "sentence-transformers": ("sentence-transformers", "transformers", "torch"),
    "efficientnet-lite": ("efficientnet-lite-pytorch", "pillow", "torch"),
    "open-clip": ("open_clip_torch", "pillow", "timm", "torch", "torchvision"),
    "timm": ("pillow", "timm", "torch", "torchvision"),
}
# What each kind encodes; the first is the modality that the encoder itself has.
MODALITIES_BY_KIND: dict[str, tuple[Modality, ...]] = {
    "sentence-transformers": ("text",),
    "efficientnet-lite": ("image",),
    "open-clip": ("image", "text"),
    "timm": ("image",),
}
# Raise an entry when a code change alters the vectors.
ENCODER_VERSIONS = {"sentence-transformers": 1, "efficientnet-lite": 2, "open-clip": 2, "timm": 2}


ROLE_KEYS = ("prompt", "task")  # what `describe_role` may add to the details


def _is_none(value: object) -> bool:
    return value is None


class EncoderIdentity(FrozenModel):
    """What determines an encoder's vectors.

    Attributes:
        fingerprint: Names the embedding store; encoders with equal fingerprints give interchangeable vectors.
        details: What the fingerprint is computed from.
        prompts: Role -> what precedes its texts; empty for an encoder without prompts.
        query_settings: What replaces the prompt and the task in `details` for queries; None if they are encoded as documents
            are. Unset, neither is dumped: the cache keys of encoders without prompts stay as they were.
    """

    fingerprint: str
    details: dict[str, Any]
    prompts: dict[Role, str] = Field(default_factory=dict, exclude_if=not_)
    query_settings: dict[str, str] | None = Field(default=None, exclude_if=_is_none)

    def for_role(self, role: Role) -> EncoderIdentity:
        """Return the identity of the encoder as it encodes one role."""
        if role == "document" or self.query_settings is None:
            return self
        details = {key: value for key, value in self.details.items() if key not in ROLE_KEYS} | self.query_settings
        return EncoderIdentity(fingerprint=_compute_fingerprint(details), details=details, prompts=self.prompts)

    def for_store(self, modality: Modality, precision: Precision, storage_dtype: str = "float32") -> EncoderIdentity:
        """Return the identity of the store for one modality, encoded in `precision` and stored as `storage_dtype`."""
        details = self.details | {"precision": precision, "stored": storage_dtype}
        if modality == "image":  # prompts precede texts only
            details = {key: value for key, value in details.items() if key not in ROLE_KEYS}
        if modality != MODALITIES_BY_KIND[details["kind"]][0]:
            details["side"] = modality
        return self.model_copy(update={"fingerprint": _compute_fingerprint(details), "details": details})

    def with_dimensions(self, dimensions: int | None) -> EncoderIdentity:
        """Return the identity of the first `dimensions` numbers of each vector; None for whole vectors."""
        if dimensions is None:
            return self
        details = self.details | {"dimensions": dimensions}
        return self.model_copy(update={"fingerprint": _compute_fingerprint(details), "details": details})


def identify(config: EncoderConfig, precision: Precision = "float32") -> EncoderIdentity:
    """Compute the identity of the encoder that a config names, in a precision. It is that of documents; see `for_role`.

    Raises:
        InputError: The weights are missing, or do not have the digest that the config expects; or the model does not have
            the prompt that the config names.
        SourceUnreachable: The hub that has the weights does not answer.
    """
    weights, settings = _digest_weights(config)
    details: dict[str, Any] = {
        "kind": config.kind,
        "model": config.model,
        "encoder_version": ENCODER_VERSIONS[config.kind],
        "libraries": {name: version(name) for name in LIBRARIES[config.kind]},
        "weights": weights,
        "precision": precision,
        "normalize": config.normalize,
        **settings,
        **describe_role(config, "document"),
    }
    if config.weights_sha256 and config.weights_sha256 not in weights.values():
        raise InputError(
            "unexpected model weights",
            where=f"encoder.model = {config.model}",
            expected=f"a file with SHA-256 {config.weights_sha256}",
            got=", ".join(f"{name} {digest}" for name, digest in weights.items()),
            next_step="reinstall or download the model again, or correct encoder.weights_sha256",
        )
    prompts, query_settings = resolve_prompts(config), describe_role(config, "query")
    return EncoderIdentity(
        fingerprint=_compute_fingerprint(details),
        details=details,
        prompts=prompts if any(prompts.values()) else {},
        query_settings=None if query_settings == describe_role(config, "document") else query_settings,
    )


def _compute_fingerprint(details: dict[str, Any]) -> str:
    # The same weights at another path are the same encoder.
    return json_digest({**details, "model": None})[:32]


def _digest_weights(config: EncoderConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the digests of the files that determine the vectors, by name, and the library settings that do as well."""
    match config:
        case OpenClipEncoderConfig():
            return _digest_checkpoint(find_open_clip_checkpoint(config))
        case TimmEncoderConfig():
            return _digest_checkpoint(find_timm_checkpoint(config))
        case SentenceTransformersEncoderConfig():
            path = find_sentence_transformer_folder(config.model)
        case _:
            path = find_model_path(config.model)
    return {file.relative_to(path).as_posix() if path.is_dir() else file.name: file_digest(file) for file in list_model_files(path)}, {}


def _digest_checkpoint(checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, Any]]:
    """Like `_digest_weights`. The checkpoint's file name is part of its location, so it does not count."""
    path, settings = checkpoint.path, {"architecture": checkpoint.architecture, "pretrained": checkpoint.tag}
    if path.is_file():
        return {"checkpoint": file_digest(path)}, settings
    config_digests = {file.name: file_digest(file) for file in sorted(path.iterdir()) if file.suffix in CONFIG_SUFFIXES}
    return {"checkpoint": file_digest(find_folder_weights(path) or path), **config_digests}, settings
