"""Encode images and texts into one space with a CLIP model of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d

from indexmill.configs.encoders import OpenClipEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality, Precision
from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.checkpoints import CHECKPOINT_ERRORS, Checkpoint, build_checkpoint_error, find_open_clip_checkpoint
from indexmill.tasks.encoding.image_encoder import ImageEncoder
from indexmill.tasks.encoding.preprocessing import build_preprocessor
from indexmill.tasks.encoding.torch_runtime import (
    batch_by_length,
    fuse_batch_norm,
    move_model_to_device,
    move_tensor_to_device,
    to_float32_array,
)


class OpenClipModel(ImageEncoder):
    """A CLIP model's images, on a GPU if there is one, prepared as its own configuration says. `text_encoder` are encoded into the same space."""

    def __init__(self, config: OpenClipEncoderConfig, precision: Precision) -> None:
        checkpoint = find_open_clip_checkpoint(config)
        name = checkpoint.architecture or f"local-dir:{checkpoint.path}"
        model, transform = _load(name, checkpoint, config)
        fuse_batch_norm(model.visual, (Conv2dSame,), (BatchNormAct2d,))
        move_model_to_device(model, precision, channels_last=True)
        dim = int(open_clip.get_model_config(name)["embed_dim"])
        super().__init__(model.encode_image, build_preprocessor(transform), dim, config, precision)
        self.text_encoder = OpenClipTextEncoder(name, model, dim, config)


def _load(name: str, checkpoint: Checkpoint, config: OpenClipEncoderConfig) -> tuple[Any, Any]:
    """The model with its weights, and what prepares an image for it. Only tensors are unpickled; a missing or other tensor is an error."""
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=str(checkpoint.path) if checkpoint.path.is_file() else None,
            precision="fp32",
            weights_only=True,
            **_get_tag_settings(checkpoint),
        )
    except CHECKPOINT_ERRORS as error:
        raise build_checkpoint_error(name, config, error) from None
    return model, preprocess


def _get_tag_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What goes with a tag: how its images were prepared, and the activation it was trained with, of which the library only warns."""
    if checkpoint.tag is None:
        return {}
    named = open_clip.get_pretrained_cfg(checkpoint.architecture, checkpoint.tag)
    prepared = {f"image_{key}": named[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    return {**prepared, "force_quick_gelu": bool(named.get("quick_gelu"))}


DEFAULT_BATCH_SIZE = 64
WINDOW_SIZE = 1024

Tokenizer = Callable[..., torch.Tensor]


class OpenClipTextEncoder:
    """The texts of a CLIP model, cut at the model's own number of tokens."""

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, name: str, model: Any, dim: int, config: OpenClipEncoderConfig) -> None:
        self._name, self._model, self._normalize = name, model, config.normalize
        self.dim = dim
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = max(WINDOW_SIZE, self.batch_size)

    def preprocess(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> EncodedItems:
        """float32 (n, dim) for n texts, in the space of the images."""
        tokens = self._tokenizer(list(prepared))
        vectors = np.empty((len(prepared), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in batch_by_length(_find_text_ends(tokens).tolist(), batch_size):
                vectors[batch] = to_float32_array(
                    compute_text_features(self._model, move_tensor_to_device(tokens[batch])), normalize=self._normalize
                )
        return EncodedItems(vectors, _find_truncated(self._tokenizer, prepared, tokens))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        # Not needed for images; some come from the hub.
        try:
            return open_clip.get_tokenizer(self._name)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                "the model's tokenizer cannot be loaded",
                where=f"encoder.model = {self._name}",
                got=" ".join(str(error).split())[:300],
                next_step="look at the network, or name a folder with the tokenizer's files as encoder.model: local-dir:PATH",
            ) from None


def compute_text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What `model.encode_text` gives for int64 (n, length) tokens: (n, dim).

    In CLIP's own text tower no token sees those after it, and the vector is read off at the end-of-text token. So the columns after the
    last of those change nothing, and are left out: captions are short, and the full length is 77.
    """
    if type(model) is not open_clip.model.CLIP or model.text_pool_type != "argmax" or model.attn_mask is None:
        return model.encode_text(tokens)
    ends = _find_text_ends(tokens)
    tokens = tokens[:, : int(ends.max()) + 1]
    length, dtype = tokens.shape[1], model.transformer.get_cast_dtype()
    states = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    states = model.ln_final(states[torch.arange(len(tokens), device=tokens.device), ends])
    projection = model.text_projection
    if projection is None:
        return states
    return projection(states) if isinstance(projection, torch.nn.Linear) else states @ projection


def _find_text_ends(tokens: torch.Tensor) -> torch.Tensor:
    """Where each text ends: CLIP's end-of-text token has the greatest number of all."""
    return tokens.argmax(dim=1)


def _find_truncated(tokenizer: Tokenizer, texts: Sequence[str], tokens: torch.Tensor) -> np.ndarray:
    """bool (n,): whose tokens go on past the model's length, of which the library says nothing.

    Only texts that fill all but the last place can be; they are cut again with room for one token more, which then changes them.
    """
    cut = np.zeros(len(texts), dtype=bool)
    padding = tokenizer([""])[0]
    suspects = np.flatnonzero((tokens[:, -2] != padding[-2]).numpy()).tolist()
    if suspects:
        longer = tokenizer([texts[position] for position in suspects], context_length=tokens.shape[1] + 1)
        cut[suspects] = ((longer[:, :-1] != tokens[suspects]).any(dim=1) | (longer[:, -1] != padding[-1])).numpy()
    return cut
