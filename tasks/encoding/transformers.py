"""Encode images and texts with a model of transformers, pooled as its card says (`transformers_files`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from indexmill.configs.encoders import TransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality, Precision, Role
from indexmill.tasks.encoding.base import EncodedItems, batch_by_length
from indexmill.tasks.encoding.checkpoints import CHECKPOINT_ERRORS
from indexmill.tasks.encoding.prompts import resolve_prompts
from indexmill.tasks.encoding.torch_runtime import (
    TORCH_DTYPES,
    get_device,
    move_model_to_device,
    move_tensor_to_device,
    to_float32_array,
)
from indexmill.tasks.encoding.transformers_files import (
    PROJECTING_SIDES,
    describe_transformers_model,
    find_transformers_folder,
    get_architecture,
    read_model_config,
)

DEFAULT_IMAGE_BATCH_SIZE, DEFAULT_TEXT_BATCH_SIZE = 32, 64
GPU_BATCHES_PER_WINDOW = 4
TEXT_WINDOW_SIZE = 1024
# SigLIP reads a text's vector at the last position, so it must see the padding that it was trained with.
PADDED_TO_CONTEXT = ("siglip", "siglip2", "siglip_text_model", "siglip2_text_model")
MAX_CONTEXT = 1_000_000  # a tokenizer without a limit names a larger one
PROBE_SIDE = 64  # of the image that shows how long the vectors are

Inputs = dict[str, np.ndarray]  # what the library's image processor makes of one image


class TransformersModel:
    """A loaded model and the pooling of its output.

    Args:
        folder: The model's files.
        config: The encoder.
        precision: The number format of the weights and the forward pass.
    """

    def __init__(self, folder: Path, config: TransformersEncoderConfig, precision: Precision) -> None:
        self._pooling: str = describe_transformers_model(folder, config)["pooling"]
        self._dtype = TORCH_DTYPES[precision]
        self._model = move_model_to_device(_load_model(folder, config, self._pooling), precision)
        self.config: Any = self._model.config

    def compute_features(self, inputs: Mapping[str, torch.Tensor], modality: Modality) -> torch.Tensor:
        """Compute the pooled features (n, dim) of a batch of n images or texts, as the library prepares them."""
        inputs = {name: move_tensor_to_device(value) for name, value in inputs.items()}
        inputs = {name: value.to(self._dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        if self._pooling == "projection":
            return self._project(inputs, modality)
        output = self._model(**inputs)
        if self._pooling == "pooler":
            return _require_output(output, "pooler_output").flatten(1)
        states = _require_output(output, "last_hidden_state")
        if states.ndim == 4:  # a feature map (n, dim, height, width)
            states = states.flatten(2).transpose(1, 2)
        return states[:, 0] if self._pooling == "cls" else _average_tokens(states, inputs.get("attention_mask"))

    def _project(self, inputs: Mapping[str, torch.Tensor], modality: Modality) -> torch.Tensor:
        project = getattr(self._model, f"get_{modality}_features", None)
        if project is None:
            return _require_output(self._model(**inputs), f"{modality}_embeds")
        return _require_output(project(**inputs), "pooler_output")


class TransformersImageEncoder:
    """The images' side of a model. Images are prepared by the model's own image processor."""

    modality: Modality = "image"
    decode_size: tuple[int, int] | None = None  # the image processor sees every pixel, as in the library's own loop

    def __init__(self, model: TransformersModel, folder: Path, config: TransformersEncoderConfig) -> None:
        self._model, self._normalize = model, config.normalize
        self._processor: Any = _load_part(transformers.AutoImageProcessor, folder, config)
        self.batch_size = DEFAULT_IMAGE_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size * (GPU_BATCHES_PER_WINDOW if get_device().type == "cuda" else 1)
        self.dim = self._compute([self.preprocess(Image.new("RGB", (PROBE_SIDE, PROBE_SIDE)))]).shape[1]

    def preprocess(self, item: Image.Image) -> Inputs:
        """Return what the image processor makes of an RGB image: usually pixel_values, float32 (3, height, width)."""
        return {name: values[0] for name, values in self._processor(images=[item], return_tensors="np").items()}

    def encode(self, inputs: Sequence[Inputs], batch_size: int) -> EncodedItems:
        """Encode n prepared images: vectors float32 (n, dim)."""
        batches = [self._compute(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)]
        return EncodedItems(to_float32_array(torch.cat(batches), normalize=self._normalize), np.zeros(len(inputs), dtype=bool))

    def _compute(self, images: Sequence[Inputs]) -> torch.Tensor:
        with torch.inference_mode():
            batch = {name: torch.from_numpy(np.stack([image[name] for image in images])) for name in images[0]}
            return self._model.compute_features(batch, "image")


class TransformersTextEncoder:
    """The texts' side of a model. It truncates texts at the model's number of tokens."""

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, model: TransformersModel, folder: Path, config: TransformersEncoderConfig, prompt: str) -> None:
        self._model, self._normalize, self._prompt = model, config.normalize, prompt
        self._tokenizer: Any = _load_part(transformers.AutoTokenizer, folder, config)
        self._tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True  # sorting by length needs separate padding
        self._tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # they are counted
        self._context = _find_context(self._tokenizer, model.config)
        self._padding = "max_length" if model.config.model_type in PADDED_TO_CONTEXT else "longest"
        self.batch_size = DEFAULT_TEXT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = max(TEXT_WINDOW_SIZE, self.batch_size)
        self.dim = self._compute(self._tokenize(["a"], self._context), np.arange(1)).shape[1]

    def preprocess(self, item: str) -> str:
        """Return the text with its prompt: `encode` tokenizes it."""
        return self._prompt + item

    def encode(self, inputs: Sequence[str], batch_size: int) -> EncodedItems:
        """Encode n texts: vectors float32 (n, dim)."""
        tokens = self._tokenize(inputs, self._context)
        lengths = [len(token_ids) for token_ids in tokens["input_ids"]]
        vectors = np.empty((len(inputs), self.dim), dtype=np.float32)
        for batch in batch_by_length(lengths, batch_size):
            vectors[batch] = to_float32_array(self._compute(tokens, batch), normalize=self._normalize)
        return EncodedItems(vectors, self._find_truncated(inputs, lengths))

    def _tokenize(self, texts: Sequence[str], context: int | None) -> dict[str, list[list[int]]]:
        return dict(self._tokenizer(list(texts), truncation=context is not None, max_length=context))

    def _compute(self, tokens: Mapping[str, list[list[int]]], batch: np.ndarray) -> torch.Tensor:
        rows = {name: [values[position] for position in batch] for name, values in tokens.items()}
        padded = self._tokenizer.pad(rows, padding=self._padding, max_length=self._context, return_tensors="pt")
        with torch.inference_mode():
            return self._model.compute_features(padded, "text")

    def _find_truncated(self, texts: Sequence[str], lengths: Sequence[int]) -> np.ndarray:
        """Return bool (n,): which texts were truncated. Only those at the maximum length are tokenized again."""
        truncated = np.zeros(len(texts), dtype=bool)
        if candidates := [position for position, length in enumerate(lengths) if length == self._context]:
            full_ids = self._tokenize([texts[position] for position in candidates], None)["input_ids"]
            truncated[candidates] = [len(ids) > lengths[position] for position, ids in zip(candidates, full_ids, strict=True)]
        return truncated


class TransformersImageTextEncoder(TransformersImageEncoder):
    """The images' side of a two-sided model; `text_encoder` maps texts into the same space."""

    def __init__(self, model: TransformersModel, folder: Path, config: TransformersEncoderConfig, prompt: str) -> None:
        super().__init__(model, folder, config)
        self.text_encoder = TransformersTextEncoder(model, folder, config, prompt)


def load_transformers_model(
    config: TransformersEncoderConfig, precision: Precision, role: Role = "document"
) -> TransformersImageEncoder | TransformersTextEncoder:
    """Load a model and its image processor, its tokenizer, or both.

    Raises:
        InputError: The files do not fit together.
    """
    library_logging: Any = transformers.utils.logging
    library_logging.disable_progress_bar()
    folder = find_transformers_folder(config.model)
    modalities = describe_transformers_model(folder, config)["modalities"]
    model, prompt = TransformersModel(folder, config, precision), resolve_prompts(config)[role]
    if modalities == ("text",):
        return TransformersTextEncoder(model, folder, config, prompt)
    if modalities == ("image",):
        return TransformersImageEncoder(model, folder, config)
    return TransformersImageTextEncoder(model, folder, config, prompt)


def _load_model(folder: Path, config: TransformersEncoderConfig, pooling: str) -> Any:
    """Load the model in float32. Only tensors are unpickled, no code comes with it, and no weight that is used stays random."""
    architecture = get_architecture(read_model_config(folder))
    model_class: Any = getattr(transformers, architecture) if architecture in PROJECTING_SIDES else transformers.AutoModel
    options = {"local_files_only": True, "trust_remote_code": False, "weights_only": True, "dtype": torch.float32}
    try:
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    except CHECKPOINT_ERRORS as error:
        raise _build_error(config, "the tensors of the architecture that config.json names, and nothing but tensors", error) from None
    # The head of a checkpoint that has none is not used, unless it is the pooling.
    missing = sorted(name for name in info["missing_keys"] if pooling == "pooler" or not name.startswith("pooler."))
    if missing:
        raise _build_error(config, "every tensor of the architecture", f"no {', '.join(missing[:5])}")
    return model


def _load_part(auto_class: Any, folder: Path, config: TransformersEncoderConfig) -> Any:
    """Load the image processor or the tokenizer."""
    try:
        return auto_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (*CHECKPOINT_ERRORS, ImportError) as error:
        raise _build_error(config, "the files of an image processor for images, and of a tokenizer for texts", error) from None


def _find_context(tokenizer: Any, model_config: Any) -> int | None:
    """Return the most tokens that the model sees: the tokenizer's limit, which the model's positions cap; None without a limit."""
    text_config = getattr(model_config, "text_config", model_config)
    limits = (tokenizer.model_max_length, getattr(text_config, "max_position_embeddings", None))
    return min((int(limit) for limit in limits if limit and limit < MAX_CONTEXT), default=None)


def _average_tokens(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Average states (n, tokens, dim) over the tokens that the mask (n, tokens) has, by default all."""
    if mask is None:
        return states.mean(dim=1)
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _require_output(output: Any, name: str) -> torch.Tensor:
    value = getattr(output, name, None)
    if value is None:
        raise InputError(
            "the model has no such output",
            where="encoder.pooling",
            expected=name,
            got=", ".join(output.keys()),
            next_step="set encoder.pooling to cls or mean",
        )
    return value


def _build_error(config: TransformersEncoderConfig, expected: str, got: Exception | str) -> InputError:
    return InputError(
        "the model cannot be loaded",
        where=f"encoder.model = {config.model}",
        expected=expected,
        got=" ".join(str(got).split())[:300],
        next_step="correct encoder.model, or download the model again",
    )
