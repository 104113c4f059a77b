"""Images by the pooled features of a timm model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import load_state_dict

from configs.models import Precision, TimmEncoder
from storage.records import Modality
from tasks.encoders.checkpoints import UNLOADABLE, Checkpoint, find_timm, wrong_checkpoint
from tasks.encoders.encoding import Encoded
from tasks.encoders.forward import DTYPES, device, finished, settled

DEFAULT_BATCH = 32


class TimmModel:
    """A timm model without its classifier, on a GPU if there is one. Images are prepared as its weights' tag says."""

    modality: Modality = "image"

    def __init__(self, config: TimmEncoder, precision: Precision) -> None:
        self._model = settled(_load(find_timm(config), config), precision)
        self._dtype = DTYPES[precision]
        data = resolve_model_data_config(self._model)
        self._transform = create_transform(**data, is_training=False)
        self._normalize = config.normalize
        self.dim = self._forward(torch.zeros(1, *data["input_size"])).shape[1]
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size

    def prepare(self, item: Image.Image) -> torch.Tensor:
        """float32 (3, height, width) of an RGB image, as the weights' tag says."""
        pixels: torch.Tensor = self._transform(item)
        return pixels

    def encode(self, prepared: Sequence[torch.Tensor], batch_size: int) -> Encoded:
        """float32 (n, dim) for n prepared images."""
        batches = (list(prepared[start : start + batch_size]) for start in range(0, len(prepared), batch_size))
        vectors = np.concatenate([self._forward(torch.stack(batch)) for batch in batches])
        return Encoded(vectors, np.zeros(len(prepared), dtype=bool))

    def _forward(self, pixels: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return finished(self._model(pixels.to(device(), self._dtype)), normalize=self._normalize)


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
