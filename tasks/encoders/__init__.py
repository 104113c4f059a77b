"""What turns texts or images into vectors: one file a library."""

from __future__ import annotations

from configs.models import EfficientNetLiteEncoder, EncoderConfig, OpenClipEncoder, SentenceTransformersEncoder, TimmEncoder
from tasks.encoders.encoding import Encoder
from tasks.encoders.identity import Identity, identify

__all__ = ["Encoder", "Identity", "identify", "load_encoder"]


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load a model, ready to encode. Slow (it imports torch); `identify` tells its fingerprint without loading it."""
    match config:
        case SentenceTransformersEncoder():
            from tasks.encoders.sentence_transformers import SentenceTransformersModel

            return SentenceTransformersModel(config)
        case EfficientNetLiteEncoder():
            from tasks.encoders.efficientnet_lite import EfficientNetLiteModel

            return EfficientNetLiteModel(config)
        case OpenClipEncoder():
            from tasks.encoders.open_clip import OpenClipModel

            return OpenClipModel(config)
        case TimmEncoder():
            from tasks.encoders.timm import TimmModel

            return TimmModel(config)
