"""timm models give what the library's own loop gives, whatever classifier their checkpoint has, and only tensors are ever unpickled."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from indexmill.configs.encoders import TimmEncoderConfig
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.tasks.encoding import EncoderIdentity, identify, load_encoder
from indexmill.tasks.encoding.base import encode_items
from tests.encoding.checkpoints import ModelHub, cosine, images, malicious, opened_hub

SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of the small architecture, with the library's 1,000 classes."""
    return saved(SMALL, tmp_path_factory.mktemp("timm") / "weights.pth")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    with opened_hub(monkeypatch, tmp_path / "cache") as standin:
        yield standin


def saved(name: str, path: Path, seed: int = 0, **choices: Any) -> str:
    torch.manual_seed(seed)
    torch.save(timm.create_model(name, **choices).state_dict(), path)
    return str(path)


def encoder(model: str = SMALL, pretrained: str | None = None, **more: Any) -> TimmEncoderConfig:
    return TimmEncoderConfig(kind="timm", model=model, pretrained=pretrained, **more)


def identity(*arguments: str, **more: Any) -> EncoderIdentity:
    return identify(encoder(*arguments, **more))


def own_loop(name: str, checkpoint: str, **choices: Any) -> np.ndarray:
    model = timm.create_model(name, checkpoint_path=checkpoint, **choices)
    model.reset_classifier(0)
    model.eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        return np.concatenate([model(prepare(image)[None]).numpy() for image in images()])


@pytest.mark.parametrize(("name", "dim"), [(SMALL, 1024), ("resnet18", 512), ("mobilenetv2_050", 1280)])
def test_images_agree_with_the_librarys_own_loop_one_at_a_time(name: str, dim: int, tmp_path: Path) -> None:
    """Batches change nothing: cosine at least 0.9999 to the pooled features, and unit length."""
    path = saved(name, tmp_path / "weights.pth")
    model = load_encoder(encoder(name, path, batch_size=2))
    ours = encode_items(model, images()).vectors
    assert ours.shape == (5, model.dim) == (5, dim)
    assert ours.dtype == np.float32
    assert cosine(ours, own_loop(name, path)).min() > 0.9999
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_a_fine_tuned_checkpoint_keeps_its_features(tmp_path: Path) -> None:
    """A classifier of another size is no other shape: it is not used."""
    path = saved(SMALL, tmp_path / "weights.pth", num_classes=7)
    assert cosine(encode_items(load_encoder(encoder(SMALL, path)), images()).vectors, own_loop(SMALL, path, num_classes=7)).min() > 0.9999


def test_vectors_keep_their_length_when_they_are_not_normalised(checkpoint: str) -> None:
    """normalize: false gives the model's own numbers."""
    ours = encode_items(load_encoder(encoder(SMALL, checkpoint, normalize=False)), images()).vectors
    assert ours == pytest.approx(own_loop(SMALL, checkpoint), rel=1e-3, abs=1e-4)


def test_a_tag_of_the_hub_is_fetched_once_and_then_found_without_it(hub: ModelHub, tmp_path: Path) -> None:
    """No tag takes the library's default; the file is its safetensors, and no request is made once it is here."""
    torch.manual_seed(0)
    save_file(timm.create_model(SMALL).state_dict(), tmp_path / "model.safetensors")
    hub.datasets[f"timm/{SMALL}.lamb_in1k"] = {"model.safetensors": (tmp_path / "model.safetensors").read_bytes(), "config.json": b"{}"}
    fetched = identity()
    requests = len(hub.requests)
    assert fetched.details["pretrained"] == "lamb_in1k"
    assert identity(SMALL, "lamb_in1k").fingerprint == fetched.fingerprint
    local = str(tmp_path / "model.safetensors")
    assert cosine(encode_items(load_encoder(encoder()), images()).vectors, own_loop(SMALL, local)).min() > 0.9999
    assert len(hub.requests) == requests
    assert not hub.count_requests("resolve/main/config.json")
    assert identity(SMALL, local).details["weights"] == fetched.details["weights"]


def test_a_hub_that_is_not_there_is_told_before_anything_is_read(hub: ModelHub) -> None:
    """No network is a SourceUnreachable that names the model."""
    hub.close()
    with pytest.raises(SourceUnreachable, match=r"timm/resnet18\.a1_in1k"):
        identity("resnet18")


def test_the_fingerprint_depends_on_what_the_model_computes_and_not_on_where_it_lies(checkpoint: str, tmp_path: Path) -> None:
    """A copy under another name is the same encoder; other weights, architecture or normalisation make another."""
    original = identity(SMALL, checkpoint)
    shutil.copy(checkpoint, tmp_path / "copy.pth")
    assert identity(SMALL, str(tmp_path / "copy.pth")).fingerprint == original.fingerprint
    others = [identity(SMALL, saved(SMALL, tmp_path / "other.pth", seed=1)), identity("resnet18", checkpoint)]
    others.append(identity(SMALL, checkpoint, normalize=False))
    assert len({original.fingerprint, *(each.fingerprint for each in others)}) == 4
    assert set(original.details["libraries"]) == {"pillow", "timm", "torch", "torchvision"}


def test_a_local_checkpoint_is_identified_without_loading_torch(checkpoint: str) -> None:
    """For both libraries: seconds that a night without new items does not pay."""
    program = (
        "import sys; from indexmill.configs.encoders import OpenClipEncoderConfig, TimmEncoderConfig; from indexmill.tasks.encoding import identify\n"
        f"identify(TimmEncoderConfig(kind='timm', model={SMALL!r}, pretrained={checkpoint!r}))\n"
        f"identify(OpenClipEncoderConfig(kind='open-clip', model='ViT-B-32', pretrained={checkpoint!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("model", "pretrained", "what"),
    [
        ("resnet81", None, "nearest: .*resnet18"),
        ("resnet18", "a1_in2k", "nearest: a1_in1k"),
        ("resnet18", "/nowhere/weights.pth", "encoder.pretrained = /nowhere/weights.pth"),
        ("resnet18", "package:indexmill/configs/models.py", "this is no checkpoint"),
    ],
)
def test_what_is_not_there_is_named(model: str, pretrained: str | None, what: str) -> None:
    """An unknown architecture or tag with the nearest one, a missing path, a file that holds no weights."""
    with pytest.raises(InputError, match=what):
        identify(encoder(model, pretrained))


def test_other_weights_than_the_expected_ones_are_refused(checkpoint: str) -> None:
    """weights_sha256 is compared before anything is loaded."""
    with pytest.raises(InputError, match="a" * 64):
        identity(SMALL, checkpoint, weights_sha256="a" * 64)


def test_a_checkpoint_of_another_shape_is_refused(checkpoint: str, tmp_path: Path) -> None:
    """Missing tensors, and another architecture's, leave nothing at its random start: it is an InputError."""
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for model, path in ((SMALL, str(tmp_path / "other.pth")), ("resnet18", checkpoint)):
        with pytest.raises(InputError, match=f"not one of {model}"):
            load_encoder(encoder(model, path))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """A file that executes something when it is unpickled without care is refused, and executes nothing."""
    path = malicious(tmp_path / "weights.pth", tmp_path / "witness")
    with pytest.raises(InputError, match="nothing but tensors"):
        load_encoder(encoder(SMALL, str(path)))
    assert not (tmp_path / "witness").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "witness").exists()
