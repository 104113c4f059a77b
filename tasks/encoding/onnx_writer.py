"""Write a sentence-transformers model as one ONNX graph, from tokens to final vectors, with its tokenizer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from indexmill.tasks.encoding.torch_runtime import to_float32_tensor

OPSET = 18
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class TextEncoderGraph(torch.nn.Module):
    """A SentenceTransformer that takes token tensors as plain arguments and returns only the final vectors."""

    def __init__(self, model: Any, names: list[str], dim: int, *, normalize: bool) -> None:
        super().__init__()
        self.model, self.names, self.dim, self.normalize = model, names, dim, normalize

    def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
        """Compute float32 (n, dim) vectors from one int64 (n, length) tensor per input name."""
        features = self.model(dict(zip(self.names, tokens, strict=True)))
        return to_float32_tensor(features["sentence_embedding"][:, : self.dim], normalize=self.normalize)


def write_graph(model: Any, dim: int, target: Path, *, normalize: bool) -> None:
    """Write a SentenceTransformer as one ONNX file that accepts any number of texts of any length.

    Args:
        model: On the CPU, in float32.
        dim: Length of the vectors.
        target: The file to write.
        normalize: Whether the graph scales its vectors to unit length.
    """
    names = [name for name in TOKEN_INPUTS if name in model.tokenizer.model_input_names]
    example = torch.ones((2, 7), dtype=torch.int64)  # any shape will do: only the path through the model is traced
    graph = TextEncoderGraph(model, names, dim, normalize=normalize).eval()
    axes = {name: {0: "texts", 1: "tokens"} for name in names} | {"vectors": {0: "texts"}}
    with warnings.catch_warnings(), torch.inference_mode():
        # It warns that the dynamo exporter replaces it, which takes three times as long. The caller compares the result
        # with the model, whichever exporter wrote it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(example for _ in names),
            str(target),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["vectors"],
            dynamic_axes=axes,
        )


def write_tokenizer(model: Any, target: Path) -> None:
    """Write the model's tokenizer, set to truncate where the model does and to pad to the longest text of a batch."""
    own = model.tokenizer
    tokenizer = Tokenizer.from_str(own.backend_tokenizer.to_str())
    padding = {"pad_id": own.pad_token_id, "pad_type_id": own.pad_token_type_id, "pad_token": own.pad_token}
    tokenizer.enable_padding(direction=own.padding_side, **padding)
    if model.max_seq_length:
        tokenizer.enable_truncation(model.max_seq_length, direction=own.truncation_side)
    else:
        tokenizer.no_truncation()
    tokenizer.save(str(target))
