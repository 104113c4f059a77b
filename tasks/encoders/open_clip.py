"""Images and texts in one space, by a CLIP model of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from configs.models import OpenClipEncoder
from storage.errors import InputError
from storage.records import Modality
from tasks.encoders.checkpoints import UNLOADABLE, Checkpoint, find_open_clip, wrong_checkpoint

DEFAULT_BATCH = 32


class OpenClipModel:
    """A CLIP model in float32, on a GPU if there is one. Images and texts are prepared as the model's own configuration says."""

    modality: Modality = "image"

    def __init__(self, config: OpenClipEncoder) -> None:
        checkpoint = find_open_clip(config)
        self._name = checkpoint.architecture or f"local-dir:{checkpoint.path}"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._transform = _load(self._name, checkpoint, config, self._device)
        self._normalize = config.normalize
        self.dim = int(open_clip.get_model_config(self._name)["embed_dim"])
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size

    def prepare(self, item: Image.Image) -> torch.Tensor:
        """float32 (3, height, width) of an RGB image, as the model's configuration says."""
        return self._transform(item)

    def encode(self, prepared: Sequence[torch.Tensor], batch_size: int) -> np.ndarray:
        """float32 (n, dim) for n prepared images."""
        return self._batches(lambda images: torch.stack(list(images)), self._model.encode_image, prepared, batch_size)

    def encode_texts(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """float32 (n, dim) for n texts, in the space of the images. The model's tokenizer cuts them at its own maximum."""
        return self._batches(lambda batch: self._tokenizer(list(batch)), self._model.encode_text, texts, batch_size)

    @cached_property
    def _tokenizer(self) -> Callable[[list[str]], torch.Tensor]:
        # Not needed for images; some come from the hub.
        try:
            return open_clip.get_tokenizer(self._name)
        except (OSError, ValueError, ImportError) as problem:
            raise InputError(
                "the model's tokenizer cannot be loaded",
                where=f"encoder.model = {self._name}",
                got=" ".join(str(problem).split())[:300],
                next_step="look at the network, or name a folder with the tokenizer's files as encoder.model: local-dir:PATH",
            ) from None

    def _batches(self, stack: Callable[[Any], torch.Tensor], forward: Callable[..., Any], items: Sequence[Any], size: int) -> np.ndarray:
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(items), size):
                batch = stack(items[start : start + size]).to(self._device)
                vectors.append(forward(batch, normalize=self._normalize).float().cpu().numpy())
        return np.concatenate(vectors)


def _load(name: str, checkpoint: Checkpoint, config: OpenClipEncoder, device: torch.device) -> tuple[Any, Callable[..., torch.Tensor]]:
    """The model with its weights, and what prepares an image for it. Only tensors are unpickled; a missing or other tensor is an error."""
    try:
        model, _, prepare = open_clip.create_model_and_transforms(
            name,
            pretrained=str(checkpoint.path) if checkpoint.path.is_file() else None,
            precision="fp32",
            device=device,
            weights_only=True,
            **_settings(checkpoint),
        )
    except UNLOADABLE as problem:
        raise wrong_checkpoint(name, config, problem) from None
    return model.eval(), prepare


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What goes with a tag: how its images were prepared, and the activation it was trained with, of which the library only warns."""
    if checkpoint.tag is None:
        return {}
    named = open_clip.get_pretrained_cfg(checkpoint.architecture, checkpoint.tag)
    prepared = {f"image_{key}": named[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    return {**prepared, "force_quick_gelu": bool(named.get("quick_gelu"))}
