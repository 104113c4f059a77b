"""What turns texts or images into vectors: one file a library."""

from __future__ import annotations

from configs.models import EfficientNetLiteEncoder, EncoderConfig, OpenClipEncoder, Precision, SentenceTransformersEncoder, TimmEncoder
from tasks.encoders.encoding import Encoded, Encoder
from tasks.encoders.identity import MODALITIES, Identity, identify

__all__ = ["MODALITIES", "Encoded", "Encoder", "Identity", "identify", "load_encoder"]


def load_encoder(config: EncoderConfig, precision: Precision = "float32") -> Encoder:
    """Load a model, ready to encode in that precision, whatever the config's says: `auto` is the caller's to decide.

    Slow (it imports torch); `identify` tells its fingerprint without loading it.
    """
    match config:
        case SentenceTransformersEncoder():
            from tasks.encoders.sentence_transformers import SentenceTransformersModel

            return SentenceTransformersModel(config, precision)
        case EfficientNetLiteEncoder():
            from tasks.encoders.efficientnet_lite import EfficientNetLiteModel

            return EfficientNetLiteModel(config, precision)
        case OpenClipEncoder():
            from tasks.encoders.open_clip import OpenClipModel

            return OpenClipModel(config, precision)
        case TimmEncoder():
            from tasks.encoders.timm import TimmModel

            return TimmModel(config, precision)
