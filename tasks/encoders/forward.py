"""One forward pass: the device and number format a model runs in, and vectors that come back as float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from configs.models import Precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settled(model: Any, precision: Precision, *, channels_last: bool = False) -> Any:
    """The model ready to run: all its weights in that precision, on the device; channels last is what convolutions like best."""
    return model.eval().to(device(), DTYPES[precision], memory_format=torch.channels_last if channels_last else torch.preserve_format)


def finished(features: torch.Tensor, *, normalize: bool) -> np.ndarray:
    """float32 (n, dim), of unit length if asked: the length is taken in float32, whatever the model's precision."""
    features = features.float()
    if normalize:
        features = torch.nn.functional.normalize(features, dim=1)
    return np.asarray(features.cpu().numpy())
