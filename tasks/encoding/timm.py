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
from indexmill.tasks.encoding.torch_runtime import TORCH_DTYPES, fuse_batch_norm, get_device, move_model_to_device


class TimmModel(ImageEncoder):
    """A timm model without its classifier. Images are preprocessed as the weights' tag requires."""

    def __init__(self, config: TimmEncoderConfig, precision: Precision) -> None:
        model = fuse_batch_norm(_load_model(find_timm_checkpoint(config), config), (Conv2dSame,), (BatchNormAct2d,))
        model = move_model_to_device(model, precision, channels_last=True)
        data = resolve_model_data_config(model)
        with torch.inference_mode():
            dim = model(torch.zeros(1, *data["input_size"], device=get_device(), dtype=TORCH_DTYPES[precision])).shape[1]
        super().__init__(
            model,
            preprocessor=build_preprocessor(create_transform(**data, is_training=False)),
            dim=dim,
            config=config,
            precision=precision,
        )


def _load_model(checkpoint: Checkpoint, config: TimmEncoderConfig) -> Any:
    """Load the model without its classifier. Only tensors are unpickled; a missing or unexpected tensor is an error."""
    name = f"{config.model}.{checkpoint.tag}" if checkpoint.tag else config.model
    try:
        # Built with the checkpoint's own classifier: without a classifier, timm would let any tensor be missing.
        options = _get_classifier_options(checkpoint.path, timm.get_pretrained_cfg(name))
        overlay = {"file": str(checkpoint.path), "custom_load": False, "label_offset": 0, **options}
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        model.reset_classifier(0)
    except CHECKPOINT_ERRORS as error:
        raise build_checkpoint_error(config.model, config, error) from None
    return model


def _get_classifier_options(path: Path, pretrained_cfg: Any) -> dict[str, Any]:
    """Return the number of classes of the checkpoint, if it has a classifier: it may be a fine-tuned model."""
    classifier = pretrained_cfg.classifier if pretrained_cfg else None
    bias = load_state_dict(str(path), weights_only=True).get(f"{classifier}.bias")
    return {} if bias is None else {"num_classes": len(bias)}
