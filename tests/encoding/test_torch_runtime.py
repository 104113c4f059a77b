"""Folding batch normalisation changes no vector, and is left alone where it might."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from indexmill.tasks.encoding.torch_runtime import fuse_batch_norm


def randomised(model: nn.Module) -> nn.Module:
    """With statistics as training leaves them; fresh ones would hide a mistake."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(type(module) in (nn.BatchNorm2d, BatchNormAct2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "mobilenetv2_050", "tf_efficientnet_lite0"])
def test_a_folded_network_computes_the_same(name: str) -> None:
    """All of its normalisations are gone, and the features within rounding of what they were."""
    model, pixels = randomised(timm.create_model(name, num_classes=0)), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(pixels)
        after = fuse_batch_norm(model, (Conv2dSame,), (BatchNormAct2d,))(pixels)
    assert norms(model) == 0
    assert torch.nn.functional.cosine_similarity(before, after).min() > 0.99999


class Odd(nn.Module):
    """Two normalisations that must stay: one of a result that is also used raw, one behind a convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raw = self.shared(pixels)
        return self.first(raw) + raw + self.second(self.twice(self.twice(pixels)))


class Untraceable(Odd):
    """Its way depends on the numbers."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels) if pixels.sum() > 0 else pixels


class Standardised(nn.Sequential):
    """A convolution that computes with a function of its weights."""

    def __init__(self) -> None:
        super().__init__(timm.layers.StdConv2d(3, 3, 1), nn.BatchNorm2d(3))


@pytest.mark.parametrize("odd", [Odd, Untraceable, Standardised])
def test_what_cannot_be_folded_safely_stays(odd: type[nn.Module]) -> None:
    """Exactly the same numbers."""
    model, pixels = randomised(odd()), torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        before, count = model(pixels), norms(model)
        assert torch.equal(fuse_batch_norm(model, (Conv2dSame,), (BatchNormAct2d,))(pixels), before)
    assert norms(model) == count > 0
