"""Write models as ONNX graphs, from tokens or pixels to final vectors, and the tokenizers of texts.

A graph's weights are in a file of their own beside it, from which ONNX Runtime maps them. In the graph's file, it would
copy them twice before the first query.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from indexmill.storage.onnx_exports import ImageResize
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor
from indexmill.tasks.encoding.torch_runtime import to_float32_tensor

OPSET = 18
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ANY = torch.export.Dim.DYNAMIC


class TextEncoderGraph(torch.nn.Module):
    """A SentenceTransformer that takes token tensors as plain arguments and returns only the final vectors."""

    def __init__(self, model: Any, names: list[str], dim: int, *, normalize: bool) -> None:
        super().__init__()
        self.model, self.names, self.dim, self.normalize = model, names, dim, normalize

    def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
        """Compute float32 (n, dim) vectors from one int64 (n, length) tensor per input name."""
        features = self.model(dict(zip(self.names, tokens, strict=True)))
        return to_float32_tensor(features["sentence_embedding"][:, : self.dim], normalize=self.normalize)


class ClipTextGraph(torch.nn.Module):
    """The text side of a CLIP model, with normalization."""

    def __init__(self, model: Any, compute_features: Callable[[Any, torch.Tensor], torch.Tensor], *, normalize: bool) -> None:
        super().__init__()
        self.model, self.compute_features, self.normalize = model, compute_features, normalize

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute float32 (n, dim) vectors of int64 (n, length) tokens."""
        return to_float32_tensor(self.compute_features(self.model, tokens), normalize=self.normalize)


class ImageEncoderGraph(torch.nn.Module):
    """An image model that takes resized images as they are, and normalizes both pixels and vectors."""

    mean: torch.Tensor
    inverse_std: torch.Tensor

    def __init__(self, network: torch.nn.Module, preprocessor: ImagePreprocessor, *, normalize: bool) -> None:
        super().__init__()
        self.network, self.normalize = network, normalize
        self.register_buffer("mean", preprocessor.scaled_mean)
        self.register_buffer("inverse_std", preprocessor.inverse_std)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute float32 (n, dim) vectors of uint8 (n, height, width, 3) pixels."""
        values = (pixels.float() - self.mean) * self.inverse_std
        return to_float32_tensor(self.network(values.permute(0, 3, 1, 2)), normalize=self.normalize)


def write_text_graph(model: Any, dim: int, target: Path, *, normalize: bool) -> None:
    """Write a SentenceTransformer as an ONNX graph that accepts any number of texts of any length.

    Args:
        model: On the CPU, in float32.
        dim: Length of the vectors.
        target: The file to write.
        normalize: Whether the graph scales its vectors to unit length.
    """
    names = [name for name in TOKEN_INPUTS if name in model.tokenizer.model_input_names]
    # Any shape will do, since only the path through the model is traced; but one tensor for two names would be one input.
    examples = {name: torch.ones((2, 7), dtype=torch.int64) for name in names}
    graph = TextEncoderGraph(model, names, dim, normalize=normalize)
    _write_graph(graph, examples, (tuple({0: ANY, 1: ANY} for _ in names),), target)


def write_clip_text_graph(
    model: Any,
    compute_features: Callable[[Any, torch.Tensor], torch.Tensor],
    example: torch.Tensor,
    target: Path,
    *,
    normalize: bool,
    any_length: bool,
) -> None:
    """Write the text side of a CLIP model as an ONNX graph that accepts any number of texts.

    Args:
        model: On the CPU, in float32.
        compute_features: Maps the model and int64 (n, length) tokens to (n, dim) features.
        example: Tokens of two texts.
        target: The file to write.
        normalize: As in `write_text_graph`.
        any_length: Whether the graph accepts tokens of any length, or only of the example's.
    """
    graph = ClipTextGraph(model, compute_features, normalize=normalize)
    _write_graph(graph, {"input_ids": example}, ({0: ANY, 1: ANY} if any_length else {0: ANY},), target)


def write_image_graph(
    network: torch.nn.Module, preprocessor: ImagePreprocessor, resize: ImageResize, target: Path, *, normalize: bool
) -> None:
    """Write an image model as an ONNX graph that accepts any number of resized images.

    Args:
        network: Maps normalized pixels to features; on the CPU, in float32.
        preprocessor: Normalizes the pixels.
        resize: The size of the images.
        target: The file to write.
        normalize: As in `write_text_graph`.
    """
    graph = ImageEncoderGraph(network, preprocessor, normalize=normalize)
    example = torch.zeros((2, resize.height, resize.width, 3), dtype=torch.uint8)
    _write_graph(graph, {"pixels": example}, ({0: ANY},), target)


def write_tokenizer(model: Any, target: Path) -> None:
    """Write the tokenizer of a SentenceTransformer, set to truncate where the model does and to pad to the longest text of a batch."""
    own = model.tokenizer
    tokenizer = Tokenizer.from_str(own.backend_tokenizer.to_str())
    padding = {"pad_id": own.pad_token_id, "pad_type_id": own.pad_token_type_id, "pad_token": own.pad_token}
    tokenizer.enable_padding(direction=own.padding_side, **padding)
    if model.max_seq_length:
        tokenizer.enable_truncation(model.max_seq_length, direction=own.truncation_side)
    else:
        tokenizer.no_truncation()
    tokenizer.save(str(target))


def _write_graph(graph: torch.nn.Module, inputs: dict[str, torch.Tensor], dynamic_shapes: Any, target: Path) -> None:
    """Write a graph with the output `vectors`, and its weights beside it (`get_weights_path`). The caller compares it with the model."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                str(target),
                dynamo=True,
                external_data=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=["vectors"],
                dynamic_shapes=dynamic_shapes,
            )
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
