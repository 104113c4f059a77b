"""Images by the pooled features of a timm model."""

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

from indexmill.configs.encoders import Precision, TimmEncoder
from indexmill.tasks.encoders.checkpoints import UNLOADABLE, Checkpoint, find_timm, wrong_checkpoint
from indexmill.tasks.encoders.forward import DTYPES, device, settled
from indexmill.tasks.encoders.fusing import fused
from indexmill.tasks.encoders.images import ImageEncoder
from indexmill.tasks.encoders.transforms import preparation


class TimmModel(ImageEncoder):
    """A timm model without its classifier, on a GPU if there is one. Images are prepared as its weights' tag says."""

    def __init__(self, config: TimmEncoder, precision: Precision) -> None:
        model = settled(fused(_load(find_timm(config), config), (Conv2dSame,), (BatchNormAct2d,)), precision, channels_last=True)
        data = resolve_model_data_config(model)
        prepared = preparation(create_transform(**data, is_training=False))
        with torch.inference_mode():
            dim = model(torch.zeros(1, *data["input_size"], device=device(), dtype=DTYPES[precision])).shape[1]
        super().__init__(model, prepared, dim, config, precision)


def _load(checkpoint: Checkpoint, config: TimmEncoder) -> Any:
    """The model with its weights, its classifier taken off. Only tensors are unpickled; a missing or other tensor is an error."""
    name = f"{config.model}.{checkpoint.tag}" if checkpoint.tag else config.model
    try:
        # Built with the checkpoint's own classifier: without one, timm would let any tensor be missing.
        classes = _classes(checkpoint.path, timm.get_pretrained_cfg(name))
        source = {"file": str(checkpoint.path), "custom_load": False, "label_offset": 0, **classes}
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **classes)
        model.reset_classifier(0)
    except UNLOADABLE as problem:
        raise wrong_checkpoint(config.model, config, problem) from None
    return model


def _classes(path: Path, named: Any) -> dict[str, Any]:
    """How many classes the checkpoint's classifier tells apart, where it has one: a fine-tuned model has others than the library's."""
    classifier = named.classifier if named else None
    bias = load_state_dict(str(path), weights_only=True).get(f"{classifier}.bias")
    return {} if bias is None else {"num_classes": len(bias)}
