"""Encoders that turn texts or images into vectors, one module per model library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from indexmill.configs.encoders import (
    EfficientNetLiteEncoderConfig,
    EncoderConfig,
    OpenClipEncoderConfig,
    SentenceTransformersEncoderConfig,
    TimmEncoderConfig,
)
from indexmill.storage.records import Precision
from indexmill.tasks.encoding.base import EncodedItems, Encoder
from indexmill.tasks.encoding.identity import MODALITIES_BY_KIND, EncoderIdentity, identify

__all__ = ["MODALITIES_BY_KIND", "EncodedItems", "Encoder", "EncoderIdentity", "get_encoder_class", "identify", "load_encoder"]


def load_encoder(config: EncoderConfig, precision: Precision = "float32") -> Encoder:
    """Load a model, ready to encode in that precision, whatever the config's says: `auto` is the caller's to decide.

    Slow (it imports torch); `identify` tells its fingerprint without loading it.
    """
    return get_encoder_class(config)(config, precision)


def get_encoder_class(config: EncoderConfig) -> Callable[[Any, Precision], Encoder]:
    """What makes an encoder of this kind: to ask for it imports its library, which takes seconds."""
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
