"""Encoders that turn texts or images into vectors, one module per model library."""

from __future__ import annotations

from collections.abc import Callable

from indexmill.configs.encoders import (
    EfficientNetLiteEncoderConfig,
    EncoderConfig,
    OpenClipEncoderConfig,
    PythonEncoderConfig,
    SentenceTransformersEncoderConfig,
    TextEncoderConfig,
    TimmEncoderConfig,
    TransformersEncoderConfig,
)
from indexmill.storage.errors import InputError
from indexmill.storage.records import Precision, Role
from indexmill.tasks.encoding.base import EncodedItems, Encoder
from indexmill.tasks.encoding.identity import EncoderIdentity, identify, list_modalities

__all__ = [
    "EncodedItems",
    "Encoder",
    "EncoderIdentity",
    "check_dimensions",
    "get_encoder_class",
    "has_precisions",
    "identify",
    "list_modalities",
    "load_encoder",
]


def load_encoder(config: EncoderConfig, precision: Precision = "float32", role: Role = "document") -> Encoder:
    """Load a model in a precision. Slow, since it imports torch; `identify` computes a fingerprint without it.

    Args:
        config: The encoder; its own `precision` is ignored, since resolving `auto` is up to the caller.
        precision: The number format of the weights and the forward pass.
        role: What texts are encoded as. Images have no roles.

    Returns:
        The encoder of whole vectors, whatever `config.dimensions` is.

    Raises:
        InputError: The model cannot be loaded, or has fewer dimensions than the config asks for.
    """
    encoder_class = get_encoder_class(config)
    encoder = encoder_class(config, precision, role) if isinstance(config, TextEncoderConfig) else encoder_class(config, precision)
    check_dimensions(config, encoder.dim)
    return encoder


def check_dimensions(config: EncoderConfig, dim: int) -> None:
    """Raise InputError if the config asks for more dimensions than the model has."""
    if config.dimensions is not None and config.dimensions > dim:
        raise InputError(
            "the model's vectors are shorter than this",
            where=f"encoder.dimensions = {config.dimensions}",
            expected=f"at most {dim} for {config.model}",
            got=str(config.dimensions),
            next_step=f"set encoder.dimensions to {dim} or less, or remove it",
        )


def has_precisions(config: EncoderConfig) -> bool:
    """Return whether an encoder can compute in other precisions than float32. Imports an encoder of one's own."""
    if not isinstance(config, PythonEncoderConfig):
        return True
    from indexmill.tasks.encoding.python_encoder import takes_precision

    return takes_precision(config)


def get_encoder_class(config: EncoderConfig) -> Callable[..., Encoder]:
    """Return the encoder class for a config, or a function that makes the encoder. Imports the model library, which takes seconds."""
    match config:
        case SentenceTransformersEncoderConfig():
            from indexmill.tasks.encoding.sentence_transformers import SentenceTransformersModel

            return SentenceTransformersModel
        case EfficientNetLiteEncoderConfig():
            from indexmill.tasks.encoding.efficientnet_lite import EfficientNetLiteModel

            return EfficientNetLiteModel
        case OpenClipEncoderConfig():
            from indexmill.tasks.encoding.open_clip import OpenClipModel

            return OpenClipModel
        case TimmEncoderConfig():
            from indexmill.tasks.encoding.timm import TimmModel

            return TimmModel
        case TransformersEncoderConfig():
            from indexmill.tasks.encoding.transformers import load_transformers_model

            return load_transformers_model
        case PythonEncoderConfig():
            from indexmill.tasks.encoding.python_encoder import load_python_encoder

            return load_python_encoder
