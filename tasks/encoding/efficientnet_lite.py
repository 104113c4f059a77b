"""Encode images as the pooled features of EfficientNet-Lite0."""

from __future__ import annotations

import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import Conv2dStaticSamePadding

from indexmill.configs.encoders import EfficientNetLiteEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import ImageResize
from indexmill.storage.records import Precision
from indexmill.tasks.encoding.checkpoints import CHECKPOINT_ERRORS
from indexmill.tasks.encoding.image_encoder import ImageEncoder
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.encoding.preprocessing import ImagePreprocessor
from indexmill.tasks.encoding.torch_runtime import fuse_batch_norm, move_model_to_device

DIM = 1280
RESIZE = ImageResize(method="crop_first", height=224, width=224, filter="bicubic")
MEAN, STD = [127 / 255] * 3, [128 / 255] * 3


class EfficientNetLiteModel(ImageEncoder):
    """EfficientNet-Lite0, its last feature map (1,280 x 7 x 7) averaged over the image.

    It sees the central square of an image at 224 x 224 (bicubic), each value mapped to (x - 127) / 128.
    """

    def __init__(self, config: EfficientNetLiteEncoderConfig, precision: Precision) -> None:
        network = fuse_batch_norm(_PooledFeatures(_load_network(config)), conv_types=(Conv2dStaticSamePadding,))
        super().__init__(
            move_model_to_device(network, precision, channels_last=True),
            preprocessor=ImagePreprocessor(RESIZE, MEAN, STD),
            dim=DIM,
            config=config,
            precision=precision,
        )


class _PooledFeatures(torch.nn.Module):
    """The network without its classifier."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self._model = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute float32 (n, 1280) features of (n, 3, 224, 224) pixels."""
        features: torch.Tensor = self._model.extract_features(pixels)
        return features.float().mean(dim=(2, 3))


def _load_network(config: EfficientNetLiteEncoderConfig) -> EfficientNet:
    path, network = find_model_path(config.model), EfficientNet.from_name("efficientnet-lite0")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    except CHECKPOINT_ERRORS as error:
        raise InputError(
            "the checkpoint does not fit EfficientNet-Lite0",
            where=f"encoder.model = {config.model}",
            expected="the tensors of EfficientNet-Lite0, and nothing but tensors",
            got=str(error)[:300],
            next_step="correct encoder.model",
        ) from None
    return network
