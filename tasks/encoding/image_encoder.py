"""The base class of image encoders: uint8 pixels in, float32 vectors out, one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from indexmill.configs.encoders import BaseEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import ExportSettings
from indexmill.storage.records import Modality, Precision
from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor
from indexmill.tasks.encoding.torch_runtime import TORCH_DTYPES, get_device, hold_on_cpu, move_tensor_to_device, to_float32_array

DEFAULT_BATCH_SIZE = 32
GPU_BATCHES_PER_WINDOW = 4  # a GPU gets several batches at once, so that it computes while the next one is copied


class ImageEncoder:
    """An image encoder around a loaded model.

    Args:
        network: Maps (n, 3, height, width) pixels to (n, dim) features; on the device, in `precision`.
        preprocessor: Resizes and normalizes images for the model.
        dim: Length of the vectors.
        config: Batch size and normalization.
        precision: The number format of the model's weights.
    """

    modality: Modality = "image"

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        preprocessor: ImagePreprocessor,
        dim: int,
        config: BaseEncoderConfig,
        precision: Precision,
    ) -> None:
        self._network, self._preprocessor, self._dtype = network, preprocessor, TORCH_DTYPES[precision]
        self._normalize = config.normalize
        self.decode_size = preprocessor.decode_size
        self.dim = dim
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size * (GPU_BATCHES_PER_WINDOW if get_device().type == "cuda" else 1)

    def export(self, graph_path: Path, tokenizer_path: Path) -> ExportSettings:  # noqa: ARG002 - images have no tokenizer
        """Write the model as an ONNX graph; return how images are resized for it.

        Raises:
            InputError: Only the library can resize its images, or the model has another precision than float32.
        """
        # Imported here: only exports need it.
        from indexmill.tasks.encoding.onnx_writer import write_image_graph

        resize = self._preprocessor.resize
        if resize is None or self._dtype != torch.float32:
            raise InputError("this model cannot be exported to ONNX", expected="usual preprocessing of images, and a model in float32")
        with hold_on_cpu(self._network):
            write_image_graph(self._network, self._preprocessor, resize, graph_path, normalize=self._normalize)
        return ExportSettings(resize=resize)

    def preprocess(self, item: Image.Image) -> np.ndarray:
        """Resize an RGB image: uint8 (height, width, 3) at the model's size."""
        return self._preprocessor.resize_image(item)

    def encode(self, inputs: Sequence[np.ndarray], batch_size: int) -> EncodedItems:
        """Encode n resized images: vectors float32 (n, dim)."""
        with torch.inference_mode():
            features = [self._forward(inputs[start : start + batch_size]) for start in range(0, len(inputs), batch_size)]
            return EncodedItems(to_float32_array(torch.cat(features), normalize=self._normalize), np.zeros(len(inputs), dtype=bool))

    def _forward(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = move_tensor_to_device(torch.from_numpy(np.stack(images)))
        features: torch.Tensor = self._network(self._preprocessor.normalize(pixels, self._dtype))
        return features
