"""Images and texts in one space, by a CLIP model of open_clip."""

from __future__ import annotations

from typing import Any

import open_clip
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d

from indexmill.configs.encoders import OpenClipEncoder, Precision
from indexmill.tasks.encoders.checkpoints import UNLOADABLE, Checkpoint, find_open_clip, wrong_checkpoint
from indexmill.tasks.encoders.forward import settled
from indexmill.tasks.encoders.fusing import fused
from indexmill.tasks.encoders.images import ImageEncoder
from indexmill.tasks.encoders.open_clip_texts import OpenClipTexts
from indexmill.tasks.encoders.transforms import preparation


class OpenClipModel(ImageEncoder):
    """A CLIP model's images, on a GPU if there is one, prepared as its own configuration says. `texts` are encoded into the same space."""

    def __init__(self, config: OpenClipEncoder, precision: Precision) -> None:
        checkpoint = find_open_clip(config)
        name = checkpoint.architecture or f"local-dir:{checkpoint.path}"
        model, transform = _load(name, checkpoint, config)
        fused(model.visual, (Conv2dSame,), (BatchNormAct2d,))
        settled(model, precision, channels_last=True)
        dim = int(open_clip.get_model_config(name)["embed_dim"])
        super().__init__(model.encode_image, preparation(transform), dim, config, precision)
        self.texts = OpenClipTexts(name, model, dim, config)


def _load(name: str, checkpoint: Checkpoint, config: OpenClipEncoder) -> tuple[Any, Any]:
    """The model with its weights, and what prepares an image for it. Only tensors are unpickled; a missing or other tensor is an error."""
    try:
        model, _, prepare = open_clip.create_model_and_transforms(
            name,
            pretrained=str(checkpoint.path) if checkpoint.path.is_file() else None,
            precision="fp32",
            weights_only=True,
            **_settings(checkpoint),
        )
    except UNLOADABLE as problem:
        raise wrong_checkpoint(name, config, problem) from None
    return model, prepare


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What goes with a tag: how its images were prepared, and the activation it was trained with, of which the library only warns."""
    if checkpoint.tag is None:
        return {}
    named = open_clip.get_pretrained_cfg(checkpoint.architecture, checkpoint.tag)
    prepared = {f"image_{key}": named[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    return {**prepared, "force_quick_gelu": bool(named.get("quick_gelu"))}
