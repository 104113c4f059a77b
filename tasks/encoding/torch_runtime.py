"""Run models with torch: device, dtype, float32 output, and folding of batch normalization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from indexmill.storage.records import Precision

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def get_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def move_model_to_device(model: Any, precision: Precision, *, channels_last: bool = False) -> Any:
    """Move a model to the device, in evaluation mode and with all weights in `precision`.

    Args:
        model: A torch module; changed in place.
        precision: The number format of the weights.
        channels_last: Store the weights channels last, the fastest layout for convolutions.
    """
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    return model.eval().to(get_device(), TORCH_DTYPES[precision], memory_format=memory_format)


def move_tensor_to_device(tensor: torch.Tensor) -> torch.Tensor:
    """Move a tensor to the device; to a GPU from pinned memory, while it still computes the previous batch."""
    return tensor if get_device().type == "cpu" else tensor.pin_memory().to(get_device(), non_blocking=True)


@contextmanager
def hold_on_cpu(model: Any) -> Iterator[None]:
    """Keep a model on the CPU, and move it back to the device at the end."""
    model.to("cpu")
    try:
        yield
    finally:
        model.to(get_device())


def to_float32_array(features: torch.Tensor, *, normalize: bool) -> np.ndarray:
    """Like `to_float32_tensor`, as a NumPy array."""
    return np.asarray(to_float32_tensor(features, normalize=normalize).cpu().numpy())


def to_float32_tensor(features: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """Convert features (n, dim) to float32, and then to unit length if `normalize`: norms are computed in float32."""
    features = features.float()
    return torch.nn.functional.normalize(features, dim=1) if normalize else features


ModuleTypes = tuple[type[nn.Module], ...]


def fuse_batch_norm(model: nn.Module, conv_types: ModuleTypes = (), norm_types: ModuleTypes = ()) -> nn.Module:
    """Fold every batch normalization into the convolution before it, if nothing else uses the convolution's output.

    For inference in float32. A model whose forward pass cannot be traced is left as it is.

    Args:
        model: Changed in place.
        conv_types: Convolutions, besides torch's, that use their weights unchanged.
        norm_types: Batch normalizations, besides torch's; they may apply dropout and an activation afterwards.

    Returns:
        The same model.
    """
    conv_types, norm_types = (nn.Conv2d, *conv_types), (nn.BatchNorm2d, *norm_types)
    if not any(type(module) in norm_types for module in model.modules()):
        return model
    model.eval()
    try:
        calls = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # a forward pass can run any Python code
        return model
    modules, call_counts = dict(model.named_modules()), Counter(str(call.target) for call in calls)
    for call in calls:
        previous = call.args[0] if call.args else None
        if not isinstance(previous, fx.Node) or previous.op != "call_module" or len(previous.users) > 1:
            continue
        conv_name, norm_name = str(previous.target), str(call.target)
        if (
            type(modules[conv_name]) in conv_types
            and type(modules[norm_name]) in norm_types
            and call_counts[conv_name] == call_counts[norm_name] == 1
        ):
            _fold_batch_norm(model, modules[conv_name], modules[norm_name], norm_name)
    return model


class _Tracer(fx.Tracer):
    """Traces into every module except convolutions and batch normalizations."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _fold_batch_norm(model: nn.Module, convolution: Any, norm: Any, name: str) -> None:
    if norm.running_mean is None:
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    model.set_submodule(name, nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part))))
