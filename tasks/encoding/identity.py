"""Compute an encoder's fingerprint from its files and library versions, without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from operator import not_
from pathlib import Path
from typing import Any

from pydantic import Field

from indexmill.configs.encoders import (
    EncoderConfig,
    OpenClipEncoderConfig,
    PythonEncoderConfig,
    SentenceTransformersEncoderConfig,
    TextEncoderConfig,
    TimmEncoderConfig,
    TransformersEncoderConfig,
)
from indexmill.storage.digests import file_digest, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import FrozenModel, Modality, Precision, Role
from indexmill.tasks.encoding.checkpoints import Checkpoint, find_folder_weights, find_open_clip_checkpoint, find_timm_checkpoint
from indexmill.tasks.encoding.model_files import CONFIG_SUFFIXES, find_model_path, find_sentence_transformer_folder, list_model_files
from indexmill.tasks.encoding.prompts import describe_role, resolve_prompts
from indexmill.tasks.encoding.python_target import find_encoder_target
from indexmill.tasks.encoding.transformers_files import describe_transformers_model, find_transformers_folder, list_transformers_files

LIBRARIES = {
    "sentence-transformers": ("sentence-transformers", "transformers", "torch"),
    "efficientnet-lite": ("efficientnet-lite-pytorch", "pillow", "torch"),
    "open-clip": ("open_clip_torch", "pillow", "timm", "torch", "torchvision"),
    "timm": ("pillow", "timm", "torch", "torchvision"),
    "transformers": ("pillow", "tokenizers", "torch", "torchvision", "transformers"),
}
# What each kind encodes, unless it depends on the model; the first is the modality that the encoder itself has.
MODALITIES_BY_KIND: dict[str, tuple[Modality, ...]] = {
    "sentence-transformers": ("text",),
    "efficientnet-lite": ("image",),
    "open-clip": ("image", "text"),
    "timm": ("image",),
}
# Raise an entry when a code change alters the vectors.
ENCODER_VERSIONS = {"sentence-transformers": 1, "efficientnet-lite": 2, "open-clip": 2, "timm": 2, "transformers": 1, "python": 1}


ROLE_KEYS = ("prompt", "task")  # what `describe_role` may add to the details
STORED_KEYS = ("stored", "side", "dimensions", "precision_check")  # what stores and manifests may add


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

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the encoder encodes; the first is the modality that it has itself."""
        return list_modalities(self.details)

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
        if modality != self.modalities[0]:
            details["side"] = modality
        return self.model_copy(update={"fingerprint": _compute_fingerprint(details), "details": details})

    def for_export(self, modality: Modality) -> EncoderIdentity:
        """Return the identity that names the export of one modality, as queries are encoded: prompts precede texts only."""
        if modality == "text":
            return self.for_role("query")
        details = {key: value for key, value in self.details.items() if key not in ROLE_KEYS}
        return self.model_copy(update={"fingerprint": _compute_fingerprint(details), "details": details})

    def with_dimensions(self, dimensions: int | None) -> EncoderIdentity:
        """Return the identity of the first `dimensions` numbers of each vector; None for whole vectors."""
        if dimensions is None:
            return self
        details = self.details | {"dimensions": dimensions}
        return self.model_copy(update={"fingerprint": _compute_fingerprint(details), "details": details})


def compute_export_fingerprint(stored_details: Mapping[str, Any], config: EncoderConfig, modality: Modality) -> str:
    """Return the fingerprint of `EncoderIdentity.for_export` without reading the weights.

    Args:
        stored_details: The details of any embedding store of the encoder, as manifests have them.
        config: The encoder's config.
        modality: What the export encodes.
    """
    details = {key: value for key, value in stored_details.items() if key not in (*ROLE_KEYS, *STORED_KEYS)}
    query_settings = describe_role(config, "query") if modality == "text" else {}
    return _compute_fingerprint(details | {"precision": "float32"} | query_settings)


def matches_fingerprint(manifest_details: Mapping[str, Any], fingerprint: str) -> bool:
    """Return whether a manifest's fingerprint is that of the details it has. If not, the details name another encoder."""
    return _compute_fingerprint({key: value for key, value in manifest_details.items() if key != "precision_check"}) == fingerprint


def list_modalities(details: Mapping[str, Any]) -> tuple[Modality, ...]:
    """List what an encoder encodes, from the details of its identity, which manifests have too."""
    return tuple(details.get("modalities") or MODALITIES_BY_KIND[details["kind"]])


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
        "libraries": _get_library_versions(config),
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
    _refuse_prompts_without_texts(config, settings)
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


def _get_library_versions(config: EncoderConfig) -> dict[str, str]:
    if isinstance(config, PythonEncoderConfig):
        return find_encoder_target(config).versions
    return {name: version(name) for name in LIBRARIES[config.kind]}


def _refuse_prompts_without_texts(config: EncoderConfig, settings: Mapping[str, Any]) -> None:
    """Raise InputError for a prompt of an encoder that takes no texts, where the config alone cannot know that."""
    prompts = (config.query_prompt, config.document_prompt) if isinstance(config, TextEncoderConfig) else ()
    if "text" not in settings.get("modalities", ("text",)) and any(prompt != "auto" for prompt in prompts):
        raise InputError(
            "a prompt precedes a text, and this encoder takes images only",
            where=f"encoder.model = {config.model}",
            next_step="remove encoder.query_prompt and encoder.document_prompt",
        )


def _digest_weights(config: EncoderConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the digests of the files that determine the vectors, by name, and the library settings that do as well."""
    match config:
        case OpenClipEncoderConfig():
            return _digest_checkpoint(find_open_clip_checkpoint(config))
        case TimmEncoderConfig():
            return _digest_checkpoint(find_timm_checkpoint(config))
        case SentenceTransformersEncoderConfig():
            path = find_sentence_transformer_folder(config.model)
        case TransformersEncoderConfig():
            path = find_transformers_folder(config.model)
            digests = {file.name: file_digest(file) for file in list_transformers_files(path)}
            return digests, describe_transformers_model(path, config)
        case PythonEncoderConfig():
            settings = {"target": find_encoder_target(config).name, "modalities": config.modalities, "options": config.options}
            return _digest_declared_weights(config), settings
        case _:
            path = find_model_path(config.model)
    return _digest_files(path), {}


def _digest_files(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix() if path.is_dir() else file.name: file_digest(file) for file in list_model_files(path)}


def _digest_declared_weights(config: PythonEncoderConfig) -> dict[str, str]:
    """Digest all files of the paths in `encoder.weights`, by their position in the list and their path below it."""
    digests: dict[str, str] = {}
    for number, name in enumerate(config.weights):
        path = find_model_path(name, "encoder.weights")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        digests |= {f"{number}/{file.relative_to(path if path.is_dir() else path.parent).as_posix()}": file_digest(file) for file in files}
    return digests


def _digest_checkpoint(checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, Any]]:
    """Like `_digest_weights`. The checkpoint's file name is part of its location, so it does not count."""
    path, settings = checkpoint.path, {"architecture": checkpoint.architecture, "pretrained": checkpoint.tag}
    if path.is_file():
        return {"checkpoint": file_digest(path)}, settings
    config_digests = {file.name: file_digest(file) for file in sorted(path.iterdir()) if file.suffix in CONFIG_SUFFIXES}
    return {"checkpoint": file_digest(find_folder_weights(path) or path), **config_digests}, settings
