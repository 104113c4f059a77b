"""Encode images as the pooled features of EfficientNet-Lite0."""

from __future__ import annotations

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding
from PIL import Image

from indexmill.configs.encoders import EfficientNetLiteEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Precision
from indexmill.tasks.encoding.checkpoints import CHECKPOINT_ERRORS
from indexmill.tasks.encoding.image_encoder import ImageEncoder
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor, resize_pixels
from indexmill.tasks.encoding.torch_runtime import fuse_batch_norm, move_model_to_device

DIM = 1280
IMAGE_SIZE = 224


class EfficientNetLiteModel(ImageEncoder):
    """EfficientNet-Lite0, its last feature map (1,280 x 7 x 7) averaged over the picture.

    Of a picture it sees the central square at 224 x 224 (bicubic), each value mapped by (x - 127) / 128.
    """

    def __init__(self, config: EfficientNetLiteEncoderConfig, precision: Precision) -> None:
        model = move_model_to_device(
            fuse_batch_norm(_PooledFeatures(_load(config)), (Conv2dStaticSamePadding,)), precision, channels_last=True
        )
        super().__init__(
            model, ImagePreprocessor(_crop_center_square, [127 / 255] * 3, [128 / 255] * 3, IMAGE_SIZE), DIM, config, precision
        )


class _PooledFeatures(torch.nn.Module):
    """The network without its classifier."""

    def __init__(self, model: EfficientNet) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (n, 1280) of (n, 3, 224, 224)."""
        features: torch.Tensor = self._model.extract_features(pixels)
        return features.float().mean(dim=(2, 3))


def _crop_center_square(image: Image.Image) -> np.ndarray:
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    pixels = np.array(image)[top : top + edge, left : left + edge]
    return np.ascontiguousarray(resize_pixels(pixels, IMAGE_SIZE, IMAGE_SIZE, "bicubic").numpy())


def _load(config: EfficientNetLiteEncoderConfig) -> EfficientNet:
    path, model = find_model_path(config.model), EfficientNet.from_name("efficientnet-lite0")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    except CHECKPOINT_ERRORS as error:
        raise InputError(
            "the checkpoint is not EfficientNet-Lite0's", where=f"encoder.model = {config.model}", got=str(error)[:300]
        ) from None
    return model
