"""Images by EfficientNet-Lite0's pooled features."""

from __future__ import annotations

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding
from PIL import Image

from indexmill.configs.encoders import EfficientNetLiteEncoder, Precision
from indexmill.storage.errors import InputError
from indexmill.tasks.encoders.checkpoints import UNLOADABLE
from indexmill.tasks.encoders.forward import settled
from indexmill.tasks.encoders.fusing import fused
from indexmill.tasks.encoders.images import ImageEncoder
from indexmill.tasks.encoders.locating import locate
from indexmill.tasks.encoders.pictures import Preparation, resized

DIM = 1280
SIDE = 224


class EfficientNetLiteModel(ImageEncoder):
    """EfficientNet-Lite0, its last feature map (1,280 x 7 x 7) averaged over the picture.

    Of a picture it sees the central square at 224 x 224 (bicubic), each value mapped by (x - 127) / 128.
    """

    def __init__(self, config: EfficientNetLiteEncoder, precision: Precision) -> None:
        model = settled(fused(_Pooled(_load(config)), (Conv2dStaticSamePadding,)), precision, channels_last=True)
        super().__init__(model, Preparation(_central_square, [127 / 255] * 3, [128 / 255] * 3, SIDE), DIM, config, precision)


class _Pooled(torch.nn.Module):
    """The network without its classifier."""

    def __init__(self, model: EfficientNet) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (n, 1280) of (n, 3, 224, 224)."""
        features: torch.Tensor = self._model.extract_features(pixels)
        return features.float().mean(dim=(2, 3))


def _central_square(image: Image.Image) -> np.ndarray:
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    pixels = np.array(image)[top : top + edge, left : left + edge]
    return np.ascontiguousarray(resized(pixels, SIDE, SIDE, "bicubic").numpy())


def _load(config: EfficientNetLiteEncoder) -> EfficientNet:
    path, model = locate(config.model), EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    except UNLOADABLE as problem:
        raise InputError(
            "the checkpoint is not EfficientNet-Lite0's", where=f"encoder.model = {config.model}", got=str(problem)[:300]
        ) from None
    return model
