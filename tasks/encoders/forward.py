"""One forward pass: the device and number format a model runs in, and vectors that come back as float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from indexmill.configs.encoders import Precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settled(model: Any, precision: Precision, *, channels_last: bool = False) -> Any:
    """The model ready to run: all its weights in that precision, on the device; channels last is what convolutions like best."""
    return model.eval().to(device(), DTYPES[precision], memory_format=torch.channels_last if channels_last else torch.preserve_format)


def moved(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the device. To a GPU it is copied from pinned memory, while the GPU is still at work on the batch before."""
    return tensor if device().type == "cpu" else tensor.pin_memory().to(device(), non_blocking=True)


def finished(features: torch.Tensor, *, normalize: bool) -> np.ndarray:
    """`finished_tensor` as an array."""
    return np.asarray(finished_tensor(features, normalize=normalize).cpu().numpy())


def finished_tensor(features: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """float32 (n, dim), of unit length if asked: the length is taken in float32, whatever the model's precision."""
    features = features.float()
    return torch.nn.functional.normalize(features, dim=1) if normalize else features


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Batches of positions, longest first: texts of about one length share a batch, and one that does not fit shows at once."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
