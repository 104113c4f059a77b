"""Images and texts in one space, by a CLIP model of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from configs.models import OpenClipEncoder, Precision
from storage.errors import InputError
from storage.records import Modality
from tasks.encoders.checkpoints import UNLOADABLE, Checkpoint, find_open_clip, wrong_checkpoint
from tasks.encoders.encoding import Encoded
from tasks.encoders.forward import DTYPES, device, finished, settled

DEFAULT_BATCH = 32


class OpenClipModel:
    """A CLIP model's images, on a GPU if there is one, prepared as its own configuration says. `texts` are encoded into the same space."""

    modality: Modality = "image"

    def __init__(self, config: OpenClipEncoder, precision: Precision) -> None:
        checkpoint = find_open_clip(config)
        name = checkpoint.architecture or f"local-dir:{checkpoint.path}"
        model, self._transform = _load(name, checkpoint, config)
        self._model, self._dtype = settled(model, precision), DTYPES[precision]
        self._normalize = config.normalize
        self.dim = int(open_clip.get_model_config(name)["embed_dim"])
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size
        self.texts = OpenClipTexts(name, self._model, self.dim, self.batch_size, normalize=config.normalize)

    def prepare(self, item: Image.Image) -> torch.Tensor:
        """float32 (3, height, width) of an RGB image, as the model's configuration says."""
        return self._transform(item)

    def encode(self, prepared: Sequence[torch.Tensor], batch_size: int) -> Encoded:
        """float32 (n, dim) for n prepared images."""
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(prepared), batch_size):
                batch = torch.stack(list(prepared[start : start + batch_size])).to(device(), self._dtype)
                vectors.append(finished(self._model.encode_image(batch), normalize=self._normalize))
        return Encoded(np.concatenate(vectors), np.zeros(len(prepared), dtype=bool))


class OpenClipTexts:
    """The texts of a CLIP model that is loaded. The model's tokenizer cuts them at its own maximum."""

    modality: Modality = "text"

    def __init__(self, name: str, model: Any, dim: int, batch_size: int, *, normalize: bool) -> None:
        self._name, self._model, self._normalize = name, model, normalize
        self.dim, self.batch_size, self.window = dim, batch_size, batch_size

    def prepare(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> Encoded:
        """float32 (n, dim) for n texts, in the space of the images."""
        vectors = []
        with torch.inference_mode():
            for start in range(0, len(prepared), batch_size):
                tokens = self._tokenizer(list(prepared[start : start + batch_size])).to(device())
                vectors.append(finished(self._model.encode_text(tokens), normalize=self._normalize))
        return Encoded(np.concatenate(vectors), np.zeros(len(prepared), dtype=bool))

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


def _load(name: str, checkpoint: Checkpoint, config: OpenClipEncoder) -> tuple[Any, Callable[..., torch.Tensor]]:
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
