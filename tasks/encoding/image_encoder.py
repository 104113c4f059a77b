"""The base class of image encoders: uint8 pixels in, float32 vectors out, one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from indexmill.configs.encoders import BaseEncoderConfig
from indexmill.storage.records import Modality, Precision
from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor
from indexmill.tasks.encoding.torch_runtime import TORCH_DTYPES, get_device, move_tensor_to_device, to_float32_array

DEFAULT_BATCH_SIZE = 32
GPU_BATCHES_PER_WINDOW = 4  # a GPU gets several batches at once, so that it computes while the next one is copied


class ImageEncoder:
    """An image encoder around a loaded model.

    Args:
        compute_features: Maps (n, 3, height, width) pixels to (n, dim) features.
        preprocessor: Resizes and normalizes images for the model.
        dim: Length of the vectors.
        config: Batch size and normalization.
        precision: The number format of the model's weights.
    """

    modality: Modality = "image"

    def __init__(
        self,
        compute_features: Callable[[torch.Tensor], torch.Tensor],
        *,
        preprocessor: ImagePreprocessor,
        dim: int,
        config: BaseEncoderConfig,
        precision: Precision,
    ) -> None:
        self._compute_features, self._preprocessor, self._dtype = compute_features, preprocessor, TORCH_DTYPES[precision]
        self._normalize = config.normalize
        self.decode_size = preprocessor.decode_size
        self.dim = dim
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size * (GPU_BATCHES_PER_WINDOW if get_device().type == "cuda" else 1)

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
        return self._compute_features(self._preprocessor.normalize(pixels).to(self._dtype))
