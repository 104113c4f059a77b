"""Encode texts and images with an encoder of one's own (`indexmill.tasks.extensions.protocols.PythonEncoder`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from indexmill.configs.encoders import PythonEncoderConfig
from indexmill.storage.errors import IndexmillError, InputError
from indexmill.storage.records import Modality, Precision, Role
from indexmill.tasks.encoding.base import EncodedItems, batch_by_length, is_out_of_memory
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.encoding.prompts import resolve_prompts
from indexmill.tasks.encoding.python_target import find_encoder_target
from indexmill.tasks.extensions.loading import call_factory, describe_failure, load_class_factory, takes_parameter
from indexmill.tasks.extensions.targets import Target

DEFAULT_BATCH_SIZE = 32
TEXT_WINDOW_SIZE = 1024
METHODS: dict[Modality, tuple[str, ...]] = {"text": ("encode_texts",), "image": ("preprocess_image", "encode_images")}

CallEncoder = Callable[[Sequence[Any]], Any]


class PythonImageEncoder:
    """The images' side of an encoder of one's own."""

    modality: Modality = "image"
    decode_size: tuple[int, int] | None = None  # it may look at every pixel

    def __init__(self, model: Any, target: Target, config: PythonEncoderConfig, prompt: str) -> None:
        self.dim = _read_dim(model, target)
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size
        self._model, self._target, self._normalize = model, target, config.normalize
        if "text" in config.modalities:
            self.text_encoder = PythonTextEncoder(model, target, config, prompt)

    def preprocess(self, item: Image.Image) -> Any:
        """Return what the encoder makes of an RGB image, or the error for `encode` to raise, which rejects this image alone."""
        try:
            return self._model.preprocess_image(item)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return describe_failure(self._target, error)

    def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
        """Encode n preprocessed images: vectors float32 (n, dim)."""
        if failed := next((item for item in inputs if isinstance(item, IndexmillError)), None):
            raise failed
        batches = [np.arange(start, min(start + batch_size, len(inputs))) for start in range(0, len(inputs), batch_size)]
        vectors = _encode(self._model.encode_images, inputs, batches, target=self._target, dim=self.dim, normalize=self._normalize)
        return EncodedItems(vectors, np.zeros(len(inputs), dtype=bool))


class PythonTextEncoder:
    """The texts' side of an encoder of one's own. It is assumed to see whole texts."""

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, model: Any, target: Target, config: PythonEncoderConfig, prompt: str) -> None:
        self.dim = _read_dim(model, target)
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = max(TEXT_WINDOW_SIZE, self.batch_size)
        self._model, self._target, self._normalize, self._prompt = model, target, config.normalize, prompt

    def preprocess(self, item: str) -> str:
        """Return the text with its prompt."""
        return self._prompt + item

    def encode(self, inputs: Sequence[str], batch_size: int) -> EncodedItems:
        """Encode n texts, those of similar length in one batch: vectors float32 (n, dim)."""
        batches = batch_by_length([len(text) for text in inputs], batch_size)
        vectors = _encode(self._model.encode_texts, inputs, batches, target=self._target, dim=self.dim, normalize=self._normalize)
        return EncodedItems(vectors, np.zeros(len(inputs), dtype=bool))


def load_python_encoder(
    config: PythonEncoderConfig, precision: Precision, role: Role = "document"
) -> PythonImageEncoder | PythonTextEncoder:
    """Import the target, check it, and let it make the encoder.

    Raises:
        InputError: The target does not fit the protocol, or raised an error.
    """
    target, factory = load_encoder_factory(config)
    if precision != "float32" and not takes_parameter(factory, "precision"):
        raise InputError(
            "the encoder computes in one precision only, because its target has no parameter `precision`",
            where=target.where,
            expected="encoder.precision: auto or float32",
            got=precision,
            next_step="set encoder.precision to auto, or add the parameter",
        )
    weights = [find_model_path(name, "encoder.weights") for name in config.weights]
    model = call_factory(target, factory, config.options, {"precision": precision, "weights": weights}, "encoder.options")
    _check_methods(model, target, config)
    encoder_class = PythonImageEncoder if "image" in config.modalities else PythonTextEncoder
    return encoder_class(model, target, config, resolve_prompts(config)[role])


def load_encoder_factory(config: PythonEncoderConfig) -> tuple[Target, Callable[..., Any]]:
    """Import the target, and check it against the protocol before it is called."""
    target = find_encoder_target(config)
    methods = tuple(method for modality in config.modalities for method in METHODS[modality])
    return target, load_class_factory(target, methods, "encoder")


def takes_precision(config: PythonEncoderConfig) -> bool:
    """Return whether an encoder can compute in more than one precision. Imports it."""
    return takes_parameter(load_encoder_factory(config)[1], "precision")


def _encode(call: CallEncoder, inputs: Sequence[Any], batches: Any, *, target: Target, dim: int, normalize: bool) -> np.ndarray:
    """Call the encoder once per batch of positions, and check what it returns: vectors float32 (n, dim)."""
    vectors = np.empty((len(inputs), dim), dtype=np.float32)
    for positions in batches:
        try:
            result = call([inputs[position] for position in positions])
        except Exception as error:
            if is_out_of_memory(error):
                raise  # the batch is halved
            raise describe_failure(target, error) from error
        vectors[positions] = _to_array(result, (len(positions), dim), target)
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norms == 0, 1, norms)  # a zero vector stays one, and is rejected
    return vectors


def _to_array(result: Any, shape: tuple[int, int], target: Target) -> np.ndarray:
    try:
        array = np.asarray(result)
        is_numeric = array.dtype.kind in "fiu"
    except Exception:  # a tensor on a GPU, rows of different lengths
        array, is_numeric = np.empty(0), False
    if not is_numeric or array.shape != shape:
        got = f"{array.dtype} of shape {array.shape}" if is_numeric else f"an object of class {type(result).__name__}"
        raise InputError(
            "the encoder returned something other than one vector per item",
            where=target.location,
            expected=f"numbers of shape {shape}: a NumPy array, or what NumPy makes one of",
            got=got,
            next_step="return an array (of a tensor: .float().cpu().numpy()) with one row per item and `dim` columns",
        )
    return array


def _check_methods(model: Any, target: Target, config: PythonEncoderConfig) -> None:
    missing = [name for modality in config.modalities for name in METHODS[modality] if not callable(getattr(model, name, None))]
    if missing:
        raise InputError(
            "the target made an object that is no encoder",
            where=target.where,
            expected=f"the methods {', '.join(missing)}",
            got=f"an object of class {type(model).__name__}",
            next_step="add them, or correct encoder.modalities",
        )


def _read_dim(model: Any, target: Target) -> int:
    dim = getattr(model, "dim", None)
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise InputError(
            "the encoder does not say how long its vectors are",
            where=target.where,
            expected="an attribute `dim`, a whole number above 0",
            got=f"dim = {dim!r}" if dim is not None else f"no `dim` in an object of class {type(model).__name__}",
            next_step="set it in __init__, or as a property",
        )
    return int(dim)
