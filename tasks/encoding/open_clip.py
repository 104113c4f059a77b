"""Encode images and texts into one space with a CLIP model of open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d

from indexmill.configs.encoders import OpenClipEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import ExportSettings
from indexmill.storage.records import Modality, Precision, Role
from indexmill.tasks.encoding.base import EncodedItems, batch_by_length
from indexmill.tasks.encoding.checkpoints import CHECKPOINT_ERRORS, Checkpoint, build_checkpoint_error, find_open_clip_checkpoint
from indexmill.tasks.encoding.first_token import encode_first_token, reads_first_token
from indexmill.tasks.encoding.image_encoder import ImageEncoder
from indexmill.tasks.encoding.preprocessing import build_preprocessor
from indexmill.tasks.encoding.prompts import resolve_prompts
from indexmill.tasks.encoding.torch_runtime import (
    fuse_batch_norm,
    hold_on_cpu,
    move_model_to_device,
    move_tensor_to_device,
    to_float32_array,
)


class OpenClipModel(ImageEncoder):
    """The image encoder of a CLIP model; `text_encoder` maps texts into the same space."""

    def __init__(self, config: OpenClipEncoderConfig, precision: Precision, role: Role = "document") -> None:
        checkpoint = find_open_clip_checkpoint(config)
        name = checkpoint.architecture or f"local-dir:{checkpoint.path}"
        model, transform = _load_model(name, checkpoint, config)
        fuse_batch_norm(model.visual, (Conv2dSame,), (BatchNormAct2d,))
        move_model_to_device(model, precision, channels_last=True)
        dim = int(open_clip.get_model_config(name)["embed_dim"])
        preprocessor = build_preprocessor(transform)
        super().__init__(_ImageSide(model), preprocessor=preprocessor, dim=dim, config=config, precision=precision)
        self.text_encoder = OpenClipTextEncoder(name, model, dim, config, resolve_prompts(config)[role])


class _ImageSide(torch.nn.Module):
    """The image side of a model, as a module of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model, self._reads_first_token = model, reads_first_token(model.visual)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute (n, dim) features of (n, 3, height, width) pixels."""
        if self._reads_first_token:
            return encode_first_token(self._model.visual, pixels)
        features: torch.Tensor = self._model.encode_image(pixels)
        return features


def _load_model(name: str, checkpoint: Checkpoint, config: OpenClipEncoderConfig) -> tuple[Any, Any]:
    """Load the model and its image transform. Only tensors are unpickled, and they must fit the architecture."""
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
    """Return a tag's image preprocessing, and its activation: the library only warns of a wrong one."""
    if checkpoint.tag is None:
        return {}
    pretrained_cfg = open_clip.get_pretrained_cfg(checkpoint.architecture, checkpoint.tag)
    image_settings = {f"image_{key}": pretrained_cfg[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    return {**image_settings, "force_quick_gelu": bool(pretrained_cfg.get("quick_gelu"))}


DEFAULT_BATCH_SIZE = 64
WINDOW_SIZE = 1024

Tokenizer = Callable[..., torch.Tensor]


class OpenClipTextEncoder:
    """The text encoder of a CLIP model. It truncates texts at the model's number of tokens."""

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, name: str, model: Any, dim: int, config: OpenClipEncoderConfig, prompt: str = "") -> None:
        self._name, self._model, self._normalize, self._prompt = name, model, config.normalize, prompt
        self.dim = dim
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = max(WINDOW_SIZE, self.batch_size)

    def export(self, graph_path: Path, tokenizer_path: Path) -> ExportSettings:
        """Write the text side as an ONNX graph, and its tokenizer; return what precedes every text.

        Raises:
            InputError: The model has another tokenizer than CLIP's own, or another precision than float32.
        """
        # Imported here: only exports need them.
        from indexmill.tasks.encoding.clip_tokenizer import build_clip_tokenizer
        from indexmill.tasks.encoding.onnx_writer import write_clip_text_graph

        tokenizer: Any = self._tokenizer
        if not _is_clip_tokenizer(tokenizer) or next(self._model.parameters()).dtype != torch.float32:
            raise InputError("these texts cannot be exported to ONNX", expected="CLIP's own tokenizer, and a model in float32")
        any_length = _ignores_padding(self._model)
        with hold_on_cpu(self._model):
            write_clip_text_graph(
                self._model,
                _encode_any_length if any_length else _encode_whole_texts,
                tokenizer(["a photo of a cat", "two"])[:, : 7 if any_length else None],
                graph_path,
                normalize=self._normalize,
                any_length=any_length,
            )
        build_clip_tokenizer(tokenizer.encoder, tokenizer.bpe_ranks, tokenizer.context_length, pads_to_context=not any_length).save(
            str(tokenizer_path)
        )
        return ExportSettings(prompt=self._prompt, tokenization="clip")

    def preprocess(self, item: str) -> str:
        """Return the text with its prompt: `encode` tokenizes it."""
        return self._prompt + item

    def encode(self, inputs: Sequence[str], batch_size: int) -> EncodedItems:
        """Encode n texts into the space of the images: vectors float32 (n, dim)."""
        tokens = self._tokenizer(list(inputs))
        vectors = np.empty((len(inputs), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in batch_by_length(_find_text_ends(tokens).tolist(), batch_size):
                features = compute_text_features(self._model, move_tensor_to_device(tokens[batch]))
                vectors[batch] = to_float32_array(features, normalize=self._normalize)
        return EncodedItems(vectors, _find_truncated(self._tokenizer, inputs, tokens))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        # Loaded on first use: image encoding does not need it, and some tokenizers come from the hub.
        try:
            return open_clip.get_tokenizer(self._name)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                "cannot load the model's tokenizer",
                where=f"encoder.model = {self._name}",
                got=" ".join(str(error).split())[:300],
                next_step="check the network, or set encoder.model to local-dir:PATH, a folder that has the tokenizer's files",
            ) from None


def compute_text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Compute what `model.encode_text` returns, without the padding where it cannot matter.

    In CLIP's text tower (Radford et al. 2021), attention is causal and the vector is read at the end-of-text token.
    Columns after the last such token have no effect, so they are dropped: most captions are far shorter than 77 tokens.

    Args:
        model: An open_clip model. Other text towers get all columns.
        tokens: int64 (n, length).

    Returns:
        (n, dim).
    """
    if not _ignores_padding(model):
        return _encode_whole_texts(model, tokens)
    return _encode_any_length(model, tokens[:, : int(_find_text_ends(tokens).max()) + 1])


def _encode_any_length(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the features of a model that ignores padding, from tokens with as much of it as the longest text needs."""
    ends, length, dtype = _find_text_ends(tokens), tokens.shape[1], model.transformer.get_cast_dtype()
    states = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    states = model.ln_final(states[torch.arange(len(tokens), device=tokens.device), ends])
    projection = model.text_projection
    if projection is None:
        return states
    return projection(states) if isinstance(projection, torch.nn.Linear) else states @ projection


def _ignores_padding(model: Any) -> bool:
    """Return whether the padding after a text has no effect on its vector."""
    return type(model) is open_clip.model.CLIP and model.text_pool_type == "argmax" and model.attn_mask is not None


def _encode_whole_texts(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = model.encode_text(tokens)
    return features


def _is_clip_tokenizer(tokenizer: Any) -> bool:
    """Return whether this is the tokenizer of the first CLIP models, which `clip_tokenizer` equals."""
    library = open_clip.tokenizer
    return (
        type(tokenizer) is library.SimpleTokenizer
        and tokenizer.clean_fn is library._clean_lower
        and tokenizer.reduction_fn is None
        and len(tokenizer.all_special_ids) == 2
    )


def _find_text_ends(tokens: torch.Tensor) -> torch.Tensor:
    """Return the position of each text's end: CLIP's end-of-text token has the highest id."""
    return tokens.argmax(dim=1)


def _find_truncated(tokenizer: Tokenizer, texts: Sequence[str], tokens: torch.Tensor) -> np.ndarray:
    """Return bool (n,): which texts were truncated; the library does not report it.

    Only texts that fill all but the last position can be. They are tokenized again with room for one more token, which
    changes them if they were truncated.
    """
    truncated = np.zeros(len(texts), dtype=bool)
    padding = tokenizer([""])[0]
    candidates = np.flatnonzero((tokens[:, -2] != padding[-2]).numpy()).tolist()
    if candidates:
        longer = tokenizer([texts[position] for position in candidates], context_length=tokens.shape[1] + 1)
        truncated[candidates] = ((longer[:, :-1] != tokens[candidates]).any(dim=1) | (longer[:, -1] != padding[-1])).numpy()
    return truncated
