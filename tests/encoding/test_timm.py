"""timm models give the vectors of the library's own loop, whatever their classifier; only tensors are unpickled."""

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
from tests.encoding.checkpoints import ModelHub, compute_cosines, make_images, open_model_hub, write_malicious_pickle

SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of the small architecture, with the library's 1,000 classes."""
    return save_random_weights(SMALL, tmp_path_factory.mktemp("timm") / "weights.pth")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    with open_model_hub(monkeypatch, tmp_path / "cache") as model_hub:
        yield model_hub


def save_random_weights(name: str, path: Path, seed: int = 0, **options: Any) -> str:
    torch.manual_seed(seed)
    torch.save(timm.create_model(name, **options).state_dict(), path)
    return str(path)


def make_config(model: str = SMALL, pretrained: str | None = None, **options: Any) -> TimmEncoderConfig:
    return TimmEncoderConfig(kind="timm", model=model, pretrained=pretrained, **options)


def get_identity(*arguments: str, **options: Any) -> EncoderIdentity:
    return identify(make_config(*arguments, **options))


def encode_with_timm(name: str, checkpoint: str, **options: Any) -> np.ndarray:
    """The library's own loop, one image at a time."""
    model = timm.create_model(name, checkpoint_path=checkpoint, **options)
    model.reset_classifier(0)
    model.eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        return np.concatenate([model(transform(image)[None]).numpy() for image in make_images()])


@pytest.mark.parametrize(("name", "dim"), [(SMALL, 1024), ("resnet18", 512), ("mobilenetv2_050", 1280)])
def test_images_agree_with_the_librarys_own_loop_one_at_a_time(name: str, dim: int, tmp_path: Path) -> None:
    """Batches change nothing: cosine at least 0.9999 to the pooled features, and unit length."""
    path = save_random_weights(name, tmp_path / "weights.pth")
    model = load_encoder(make_config(name, path, batch_size=2))
    ours = encode_items(model, make_images()).vectors
    assert ours.shape == (5, model.dim) == (5, dim)
    assert ours.dtype == np.float32
    assert compute_cosines(ours, encode_with_timm(name, path)).min() > 0.9999
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(5), abs=1e-6)


def test_a_fine_tuned_checkpoint_keeps_its_features(tmp_path: Path) -> None:
    """A classifier of another size does not matter: it is not used."""
    path = save_random_weights(SMALL, tmp_path / "weights.pth", num_classes=7)
    assert (
        compute_cosines(
            encode_items(load_encoder(make_config(SMALL, path)), make_images()).vectors, encode_with_timm(SMALL, path, num_classes=7)
        ).min()
        > 0.9999
    )


def test_vectors_keep_their_length_without_normalization(checkpoint: str) -> None:
    """normalize: false gives the model's own vectors."""
    ours = encode_items(load_encoder(make_config(SMALL, checkpoint, normalize=False)), make_images()).vectors
    assert ours == pytest.approx(encode_with_timm(SMALL, checkpoint), rel=1e-3, abs=1e-4)


def test_the_weights_of_a_tag_are_downloaded_once(hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default tag is the library's; safetensors are preferred; once they are cached, neither hub nor library is asked."""
    torch.manual_seed(0)
    save_file(timm.create_model(SMALL).state_dict(), tmp_path / "model.safetensors")
    hub.datasets[f"timm/{SMALL}.lamb_in1k"] = {"model.safetensors": (tmp_path / "model.safetensors").read_bytes(), "config.json": b"{}"}
    downloaded = get_identity()
    requests = len(hub.requests)
    assert downloaded.details["pretrained"] == "lamb_in1k"
    assert get_identity(SMALL, "lamb_in1k").fingerprint == downloaded.fingerprint
    local = str(tmp_path / "model.safetensors")
    assert compute_cosines(encode_items(load_encoder(make_config()), make_images()).vectors, encode_with_timm(SMALL, local)).min() > 0.9999
    assert len(hub.requests) == requests
    assert not hub.count_requests("resolve/main/config.json")
    assert get_identity(SMALL, local).details["weights"] == downloaded.details["weights"]
    monkeypatch.delattr(timm, "list_models")
    assert get_identity().fingerprint == downloaded.fingerprint
    with pytest.raises(AttributeError):  # another tag is not known yet
        get_identity(SMALL, "ours")


def test_an_unreachable_hub_is_an_error_that_names_the_model(hub: ModelHub) -> None:
    """It is a SourceUnreachable."""
    hub.close()
    with pytest.raises(SourceUnreachable, match=r"timm/resnet18\.a1_in1k"):
        get_identity("resnet18")


def test_the_fingerprint_depends_on_the_model_and_not_on_its_path(checkpoint: str, tmp_path: Path) -> None:
    """A copy under another name is the same encoder; other weights, architecture or normalization make another."""
    original = get_identity(SMALL, checkpoint)
    shutil.copy(checkpoint, tmp_path / "copy.pth")
    assert get_identity(SMALL, str(tmp_path / "copy.pth")).fingerprint == original.fingerprint
    others = [get_identity(SMALL, save_random_weights(SMALL, tmp_path / "other.pth", seed=1)), get_identity("resnet18", checkpoint)]
    others.append(get_identity(SMALL, checkpoint, normalize=False))
    assert len({original.fingerprint, *(identity.fingerprint for identity in others)}) == 4
    assert set(original.details["libraries"]) == {"pillow", "timm", "torch", "torchvision"}


def test_a_local_checkpoint_is_identified_without_loading_torch(checkpoint: str) -> None:
    """For both libraries: importing them takes seconds, which a build without new items saves."""
    program = (
        "import sys\n"
        "from indexmill.configs.encoders import OpenClipEncoderConfig, TimmEncoderConfig\n"
        "from indexmill.tasks.encoding import identify\n"
        f"identify(TimmEncoderConfig(kind='timm', model={SMALL!r}, pretrained={checkpoint!r}))\n"
        f"identify(OpenClipEncoderConfig(kind='open-clip', model='ViT-B-32', pretrained={checkpoint!r}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("resnet81", None, "closest names: .*resnet18"),
        ("resnet18", "a1_in2k", "closest names: a1_in1k"),
        ("resnet18", "/nowhere/weights.pth", "encoder.pretrained = /nowhere/weights.pth"),
        ("resnet18", "package:indexmill/configs/models.py", "not a checkpoint file"),
    ],
)
def test_unknown_names_and_missing_files_are_named(model: str, pretrained: str | None, message: str) -> None:
    """An unknown architecture or tag with the closest names, a missing path, a file that holds no weights."""
    with pytest.raises(InputError, match=message):
        identify(make_config(model, pretrained))


def test_unexpected_weights_are_refused(checkpoint: str) -> None:
    """weights_sha256 is compared before anything is loaded."""
    with pytest.raises(InputError, match="a" * 64):
        get_identity(SMALL, checkpoint, weights_sha256="a" * 64)


def test_a_checkpoint_of_another_architecture_is_refused(checkpoint: str, tmp_path: Path) -> None:
    """Missing and unexpected tensors are an InputError: no weight stays random."""
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for model, path in ((SMALL, str(tmp_path / "other.pth")), ("resnet18", checkpoint)):
        with pytest.raises(InputError, match=f"does not fit {model}"):
            load_encoder(make_config(model, path))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """A file that runs code when it is unpickled is refused, and runs nothing."""
    path = write_malicious_pickle(tmp_path / "weights.pth", tmp_path / "witness")
    with pytest.raises(InputError, match="nothing but tensors"):
        load_encoder(make_config(SMALL, str(path)))
    assert not (tmp_path / "witness").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "witness").exists()
