"""What all encoders of images have in common: 8-bit pixels in, a batch at a time through the model, float32 vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from indexmill.configs.encoders import AnyEncoder, Precision
from indexmill.storage.records import Modality
from indexmill.tasks.encoders.encoding import Encoded
from indexmill.tasks.encoders.forward import DTYPES, device, finished, moved
from indexmill.tasks.encoders.pictures import Preparation

DEFAULT_BATCH = 32
AHEAD = 4  # batches a GPU is handed at once, so that it computes while the next is copied


class ImageEncoder:
    """An encoder of images by what a loaded model computes of a batch of them."""

    modality: Modality = "image"

    def __init__(
        self, features: Callable[[torch.Tensor], torch.Tensor], preparation: Preparation, dim: int, config: AnyEncoder, precision: Precision
    ) -> None:
        self._features, self._preparation, self._dtype = features, preparation, DTYPES[precision]
        self._normalize = config.normalize
        self.wants = None if preparation.wants is None else (preparation.wants, preparation.wants)
        self.dim = dim
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size * (AHEAD if device().type == "cuda" else 1)

    def prepare(self, item: Image.Image) -> np.ndarray:
        """uint8 (height, width, 3) of an RGB image, sized as the model wants it."""
        return self._preparation.sized(item)

    def encode(self, prepared: Sequence[np.ndarray], batch_size: int) -> Encoded:
        """float32 (n, dim) for n prepared images."""
        with torch.inference_mode():
            features = [self._forward(prepared[start : start + batch_size]) for start in range(0, len(prepared), batch_size)]
            return Encoded(finished(torch.cat(features), normalize=self._normalize), np.zeros(len(prepared), dtype=bool))

    def _forward(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        pixels = moved(torch.from_numpy(np.stack(images)))
        return self._features(self._preparation.normalised(pixels).to(self._dtype))
