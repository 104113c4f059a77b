"""Folding batch normalization changes no vector, and is skipped where it might."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from indexmill.tasks.encoding.torch_runtime import fuse_batch_norm


def randomize_statistics(model: nn.Module) -> nn.Module:
    """Set statistics as after training; the initial ones would hide a mistake."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    return model.eval()


def count_norms(model: nn.Module) -> int:
    return sum(type(module) in (nn.BatchNorm2d, BatchNormAct2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "mobilenetv2_050", "tf_efficientnet_lite0"])
def test_folding_keeps_the_features(name: str) -> None:
    """No normalization is left, and the features are equal within rounding."""
    model, pixels = randomize_statistics(timm.create_model(name, num_classes=0)), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(pixels)
        after = fuse_batch_norm(model, (Conv2dSame,), (BatchNormAct2d,))(pixels)
    assert count_norms(model) == 0
    assert torch.nn.functional.cosine_similarity(before, after).min() > 0.99999


class SharedConvolutions(nn.Module):
    """Two normalizations that must stay: of a result that is also used raw, and of a convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raw = self.shared(pixels)
        return self.first(raw) + raw + self.second(self.twice(self.twice(pixels)))


class Untraceable(SharedConvolutions):
    """Its control flow depends on the values."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels) if pixels.sum() > 0 else pixels


class StandardizedConvolution(nn.Sequential):
    """A convolution that transforms its weights first."""

    def __init__(self) -> None:
        super().__init__(timm.layers.StdConv2d(3, 3, 1), nn.BatchNorm2d(3))


@pytest.mark.parametrize("model_class", [SharedConvolutions, Untraceable, StandardizedConvolution])
def test_unsafe_folding_is_skipped(model_class: type[nn.Module]) -> None:
    """The output is exactly equal."""
    model, pixels = randomize_statistics(model_class()), torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        before, count = model(pixels), count_norms(model)
        assert torch.equal(fuse_batch_norm(model, (Conv2dSame,), (BatchNormAct2d,))(pixels), before)
    assert count_norms(model) == count > 0
