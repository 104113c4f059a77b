"""Batch normalisation folded into the convolution before it: the same function in fewer passes over memory, rounded less often."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Kinds = tuple[type[nn.Module], ...]


def fused(model: nn.Module, plain: Kinds = (), norms: Kinds = ()) -> nn.Module:
    """The model, changed in place, with every batch normalisation folded that directly follows a convolution and nothing else uses.

    For inference, in float32. plain: kinds of convolution, besides torch's, that use their weights as they are; norms: kinds of batch
    normalisation besides torch's, which may drop and activate afterwards. A model whose forward pass cannot be traced is left as it is.
    """
    plain, norms = (nn.Conv2d, *plain), (nn.BatchNorm2d, *norms)
    if not any(type(module) in norms for module in model.modules()):
        return model
    model.eval()
    try:
        calls = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # a forward pass is any Python there is
        return model
    modules, times = dict(model.named_modules()), Counter(str(call.target) for call in calls)
    for call in calls:
        before = call.args[0] if call.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        names = str(before.target), str(call.target)
        if type(modules[names[0]]) in plain and type(modules[names[1]]) in norms and all(times[name] == 1 for name in names):
            _fold(model, modules[names[0]], modules[names[1]], names[1])
    return model


class _Tracer(fx.Tracer):
    """Looks into every module but those that are folded or folded into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _fold(model: nn.Module, convolution: Any, norm: Any, name: str) -> None:
    if norm.running_mean is None:
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    model.set_submodule(name, nn.Sequential(*(getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part))))
