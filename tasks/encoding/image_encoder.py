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
from indexmill.tasks.encoding.torch_runtime import TORCH_DTYPES, device, move_tensor_to_device, to_float32_array

DEFAULT_BATCH_SIZE = 32
GPU_BATCHES_AHEAD = 4  # batches a GPU is handed at once, so that it computes while the next is copied


class ImageEncoder:
    """An encoder of images by what a loaded model computes of a batch of them."""

    modality: Modality = "image"

    def __init__(
        self,
        features: Callable[[torch.Tensor], torch.Tensor],
        preprocessor: ImagePreprocessor,
        dim: int,
        config: BaseEncoderConfig,
        precision: Precision,
    ) -> None:
        self._compute_features, self._preprocessor, self._dtype = features, preprocessor, TORCH_DTYPES[precision]
        self._normalize = config.normalize
        self.decode_size = None if preprocessor.decode_size is None else (preprocessor.decode_size, preprocessor.decode_size)
        self.dim = dim
        self.batch_size = DEFAULT_BATCH_SIZE if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size * (GPU_BATCHES_AHEAD if device().type == "cuda" else 1)

    def preprocess(self, item: Image.Image) -> np.ndarray:
        """uint8 (height, width, 3) of an RGB image, sized as the model wants it."""
        return self._preprocessor.resize_image(item)

    def encode(self, prepared: Sequence[np.ndarray], batch_size: int) -> EncodedItems:
        """float32 (n, dim) for n prepared images."""
        with torch.inference_mode():
            features = [self._forward(prepared[start : start + batch_size]) for start in range(0, len(prepared), batch_size)]
            return EncodedItems(to_float32_array(torch.cat(features), normalize=self._normalize), np.zeros(len(prepared), dtype=bool))

    def _forward(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = move_tensor_to_device(torch.from_numpy(np.stack(images)))
        return self._compute_features(self._preprocessor.normalize(pixels).to(self._dtype))
