"""Images by EfficientNet-Lite0's pooled features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from configs.models import EfficientNetLiteEncoder, Precision
from storage.errors import InputError
from storage.records import Modality
from tasks.encoders.encoding import Encoded
from tasks.encoders.forward import DTYPES, device, finished, settled
from tasks.encoders.locating import locate

DEFAULT_BATCH = 32
SIDE = 224


class EfficientNetLiteModel:
    """EfficientNet-Lite0, its last feature map (1,280 x 7 x 7) averaged over the picture."""

    modality: Modality = "image"
    dim = 1280

    def __init__(self, config: EfficientNetLiteEncoder, precision: Precision) -> None:
        path = locate(config.model)
        self._model = EfficientNet.from_name("efficientnet-lite0")
        try:
            self._model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        except (RuntimeError, OSError, EOFError, ValueError) as problem:
            raise InputError(
                "the checkpoint is not EfficientNet-Lite0's", where=f"encoder.model = {config.model}", got=str(problem)[:300]
            ) from None
        self._model = settled(self._model, precision, channels_last=True)
        self._dtype = DTYPES[precision]
        self._normalize = config.normalize
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = self.batch_size

    def prepare(self, item: Image.Image) -> np.ndarray:
        """The central square at 224 x 224 (bicubic), each value mapped by (x - 127) / 128: float32 (224, 224, 3)."""
        edge = min(item.size)
        left, top = (item.width - edge) // 2, (item.height - edge) // 2
        square = item.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
        return (np.asarray(square, dtype=np.float32) - 127) / 128

    def encode(self, prepared: Sequence[np.ndarray], batch_size: int) -> Encoded:
        """float32 (n, 1280) for n prepared images."""
        vectors = [self._forward(prepared[start : start + batch_size]) for start in range(0, len(prepared), batch_size)]
        return Encoded(np.concatenate(vectors), np.zeros(len(prepared), dtype=bool))

    def _forward(self, images: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device(), self._dtype)
        with torch.inference_mode():
            features = self._model.extract_features(pixels.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))
            return finished(features, normalize=self._normalize)
