"""What turns texts or images into vectors: one file a library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from indexmill.configs.encoders import (
    EfficientNetLiteEncoder,
    EncoderConfig,
    OpenClipEncoder,
    Precision,
    SentenceTransformersEncoder,
    TimmEncoder,
)
from indexmill.tasks.encoders.encoding import Encoded, Encoder
from indexmill.tasks.encoders.identity import MODALITIES, Identity, identify

__all__ = ["MODALITIES", "Encoded", "Encoder", "Identity", "encoder_class", "identify", "load_encoder"]


def load_encoder(config: EncoderConfig, precision: Precision = "float32") -> Encoder:
    """Load a model, ready to encode in that precision, whatever the config's says: `auto` is the caller's to decide.

    Slow (it imports torch); `identify` tells its fingerprint without loading it.
    """
    return encoder_class(config)(config, precision)


def encoder_class(config: EncoderConfig) -> Callable[[Any, Precision], Encoder]:
    """What makes an encoder of this kind: to ask for it imports its library, which takes seconds."""
    match config:
        case SentenceTransformersEncoder():
            from indexmill.tasks.encoders.sentence_transformers import SentenceTransformersModel

            return SentenceTransformersModel
        case EfficientNetLiteEncoder():
            from indexmill.tasks.encoders.efficientnet_lite import EfficientNetLiteModel

            return EfficientNetLiteModel
        case OpenClipEncoder():
            from indexmill.tasks.encoders.open_clip import OpenClipModel

            return OpenClipModel
        case TimmEncoder():
            from indexmill.tasks.encoders.timm import TimmModel

            return TimmModel
