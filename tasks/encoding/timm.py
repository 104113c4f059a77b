"""Encode images as the pooled features of a timm model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.models import load_state_dict

from indexmill.configs.encoders import TimmEncoderConfig
from indexmill.storage.records import Precision
from indexmill.tasks.encoding.checkpoints import CHECKPOINT_ERRORS, Checkpoint, build_checkpoint_error, find_timm_checkpoint
from indexmill.tasks.encoding.image_encoder import ImageEncoder
from indexmill.tasks.encoding.preprocessing import build_preprocessor
from indexmill.tasks.encoding.torch_runtime import TORCH_DTYPES, device, fuse_batch_norm, move_model_to_device


class TimmModel(ImageEncoder):
    """A timm model without its classifier, on a GPU if there is one. Images are prepared as its weights' tag says."""

    def __init__(self, config: TimmEncoderConfig, precision: Precision) -> None:
        model = move_model_to_device(
            fuse_batch_norm(_load(find_timm_checkpoint(config), config), (Conv2dSame,), (BatchNormAct2d,)), precision, channels_last=True
        )
        data = resolve_model_data_config(model)
        preprocessor = build_preprocessor(create_transform(**data, is_training=False))
        with torch.inference_mode():
            dim = model(torch.zeros(1, *data["input_size"], device=device(), dtype=TORCH_DTYPES[precision])).shape[1]
        super().__init__(model, preprocessor, dim, config, precision)


def _load(checkpoint: Checkpoint, config: TimmEncoderConfig) -> Any:
    """The model with its weights, its classifier taken off. Only tensors are unpickled; a missing or other tensor is an error."""
    name = f"{config.model}.{checkpoint.tag}" if checkpoint.tag else config.model
    try:
        # Built with the checkpoint's own classifier: without one, timm would let any tensor be missing.
        classes = _get_classifier_options(checkpoint.path, timm.get_pretrained_cfg(name))
        source = {"file": str(checkpoint.path), "custom_load": False, "label_offset": 0, **classes}
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **classes)
        model.reset_classifier(0)
    except CHECKPOINT_ERRORS as error:
        raise build_checkpoint_error(config.model, config, error) from None
    return model


def _get_classifier_options(path: Path, named: Any) -> dict[str, Any]:
    """How many classes the checkpoint's classifier tells apart, where it has one: a fine-tuned model has others than the library's."""
    classifier = named.classifier if named else None
    bias = load_state_dict(str(path), weights_only=True).get(f"{classifier}.bias")
    return {} if bias is None else {"num_classes": len(bias)}
