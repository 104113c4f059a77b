"""Run models with torch: device and dtype, batches by length, float32 output, and batch normalization fused into convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from indexmill.storage.records import Precision

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def move_model_to_device(model: Any, precision: Precision, *, channels_last: bool = False) -> Any:
    """The model ready to run: all its weights in that precision, on the device; channels last is what convolutions like best."""
    return model.eval().to(device(), TORCH_DTYPES[precision], memory_format=torch.channels_last if channels_last else torch.preserve_format)


def move_tensor_to_device(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the device. To a GPU it is copied from pinned memory, while the GPU is still at work on the batch before."""
    return tensor if device().type == "cpu" else tensor.pin_memory().to(device(), non_blocking=True)


def to_float32_array(features: torch.Tensor, *, normalize: bool) -> np.ndarray:
    """`to_float32_tensor` as an array."""
    return np.asarray(to_float32_tensor(features, normalize=normalize).cpu().numpy())


def to_float32_tensor(features: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """float32 (n, dim), of unit length if asked: the length is taken in float32, whatever the model's precision."""
    features = features.float()
    return torch.nn.functional.normalize(features, dim=1) if normalize else features


def batch_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Batches of positions, longest first: texts of about one length share a batch, and one that does not fit shows at once."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


ModuleTypes = tuple[type[nn.Module], ...]


def fuse_batch_norm(model: nn.Module, conv_types: ModuleTypes = (), norm_types: ModuleTypes = ()) -> nn.Module:
    """The model, changed in place, with every batch normalisation folded that directly follows a convolution and nothing else uses.

    For inference, in float32. plain: kinds of convolution, besides torch's, that use their weights as they are; norms: kinds of batch
    normalisation besides torch's, which may drop and activate afterwards. A model whose forward pass cannot be traced is left as it is.
    """
    conv_types, norm_types = (nn.Conv2d, *conv_types), (nn.BatchNorm2d, *norm_types)
    if not any(type(module) in norm_types for module in model.modules()):
        return model
    model.eval()
    try:
        calls = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # a forward pass is any Python there is
        return model
    modules, call_counts = dict(model.named_modules()), Counter(str(call.target) for call in calls)
    for call in calls:
        previous = call.args[0] if call.args else None
        if not isinstance(previous, fx.Node) or previous.op != "call_module" or len(previous.users) > 1:
            continue
        names = str(previous.target), str(call.target)
        if (
            type(modules[names[0]]) in conv_types
            and type(modules[names[1]]) in norm_types
            and all(call_counts[name] == 1 for name in names)
        ):
            _fold_batch_norm(model, modules[names[0]], modules[names[1]], names[1])
    return model


class _Tracer(fx.Tracer):
    """Looks into every module but those that are folded or folded into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _fold_batch_norm(model: nn.Module, convolution: Any, norm: Any, name: str) -> None:
    if norm.running_mean is None:
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    model.set_submodule(name, nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part))))
