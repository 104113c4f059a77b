"""open_clip models give what the library's own loop gives, for images and for texts, and only tensors are ever unpickled."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import close_session
from pydantic import ValidationError

from indexmill.configs.encoders import OpenClipEncoderConfig
from indexmill.flows.cli.search import search_index
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.tasks.encoding import EncoderIdentity, identify, load_encoder
from indexmill.tasks.encoding.base import SupportsTexts, encode_items
from indexmill.tasks.encoding.open_clip import OpenClipModel, compute_text_features
from tests.conftest import Build
from tests.encoding.checkpoints import TINY_CLIP, ModelHub, clip_folder, cosine, images, malicious, opened_hub

TEXTS = ["a photo of a seven", "a cat", "", "word " * 200, "word " * 38, "word " * 39]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP model with a configuration of its own; `tiny-clip` names the same architecture in the library."""
    folder = clip_folder(tmp_path_factory.mktemp("models") / "clip")
    (folder.parent / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder.parent / "tiny-clip.json")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    with opened_hub(monkeypatch, tmp_path / "cache") as standin:
        yield standin


def weights(folder: Path) -> str:
    return str(folder / "open_clip_model.safetensors")


def encoder(model: str, pretrained: str | None = None, **more: Any) -> OpenClipEncoderConfig:
    return OpenClipEncoderConfig(kind="open-clip", model=model, pretrained=pretrained, **more)


def identity(*arguments: str, **more: Any) -> EncoderIdentity:
    return identify(encoder(*arguments, **more))


def test_images_and_texts_agree_with_the_librarys_own_loop_one_at_a_time(folder: Path) -> None:
    """Batches change nothing: cosine at least 0.9999, unit length, and one space for both."""
    name = f"local-dir:{folder}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    with torch.inference_mode():
        of_images = np.concatenate([model.encode_image(prepare(image)[None]).numpy() for image in images()])
        of_texts = np.concatenate([model.encode_text(tokenizer([text])).numpy() for text in TEXTS])
    ours = load_encoder(encoder(name, batch_size=2))
    assert isinstance(ours, SupportsTexts)
    pictures, texts = encode_items(ours, images()).vectors, encode_items(ours.text_encoder, TEXTS).vectors
    assert pictures.shape == (5, ours.dim) == (5, 32)
    assert texts.shape == (6, 32)
    assert pictures.dtype == texts.dtype == np.float32
    assert cosine(pictures, of_images).min() > 0.9999
    assert cosine(texts, of_texts).min() > 0.9999
    assert np.linalg.norm(np.concatenate([pictures, texts]), axis=1) == pytest.approx(np.ones(11), abs=1e-6)


def test_a_text_is_truncated_exactly_when_its_tokens_do_not_fit(folder: Path) -> None:
    """The tiny model takes 40 tokens, two of which mark beginning and end: 38 words fit, 39 do not."""
    model = load_encoder(encoder(f"local-dir:{folder}"))
    assert isinstance(model, SupportsTexts)
    words = [0, 1, 37, 38, 39, 40, 41, 200]
    assert encode_items(model.text_encoder, ["word " * count for count in words]).truncated.tolist() == [count > 38 for count in words]


def test_half_the_bits_keep_images_and_texts_close(folder: Path) -> None:
    """bfloat16 of random weights: mean cosine at least 0.999 to float32, float32 vectors of unit length."""
    exact, fast = (load_encoder(encoder(f"local-dir:{folder}"), precision) for precision in ("float32", "bfloat16"))
    assert isinstance(exact, SupportsTexts)
    assert isinstance(fast, SupportsTexts)
    for ours, theirs, items in ((fast, exact, images()), (fast.text_encoder, exact.text_encoder, TEXTS)):
        vectors = encode_items(ours, items).vectors
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(items)), abs=1e-6)
        assert cosine(vectors, encode_items(theirs, items).vectors).mean() > 0.999


def test_other_text_towers_are_asked_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where padding provably changes nothing is it left out: a tower that sees all tokens gets them all."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a cat"])
    with torch.inference_mode():
        assert compute_text_features(model, tokens) == pytest.approx(model.encode_text(tokens), abs=1e-5)
        monkeypatch.setattr(model, "attn_mask", None)
        assert torch.equal(compute_text_features(model, tokens), model.encode_text(tokens))


def test_vectors_keep_their_length_when_they_are_not_normalised(folder: Path) -> None:
    """normalize: false gives the model's own numbers."""
    name = f"local-dir:{folder}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    with torch.inference_mode():
        theirs = model.eval().encode_image(prepare(images()[0])[None]).numpy()
    ours = encode_items(load_encoder(encoder(name, normalize=False)), images()[:1]).vectors
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_an_architecture_takes_a_local_checkpoint_and_the_librarys_own_preparation(folder: Path) -> None:
    """`model` and `pretrained` as open_clip takes them, from a safetensors file or from one that torch saved."""
    torch.save(open_clip.create_model("tiny-clip", pretrained=weights(folder)).state_dict(), folder.parent / "saved.pt")
    model, _, prepare = open_clip.create_model_and_transforms("tiny-clip", pretrained=weights(folder))
    with torch.inference_mode():
        theirs = np.concatenate([model.eval().encode_image(prepare(image)[None]).numpy() for image in images()])
    for place in (weights(folder), str(folder.parent / "saved.pt")):
        assert cosine(encode_items(load_encoder(encoder("tiny-clip", place)), images()).vectors, theirs).min() > 0.9999


def test_a_tag_brings_its_preparation_and_its_activation(folder: Path, hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, deviation, interpolation, resizing and QuickGELU are the tag's, though its weights are loaded from a file."""
    tag = {"hf_hub": "ours/tiny/", "url": "", "mean": (0.3, 0.2, 0.1), "std": (0.5, 0.4, 0.3), "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"ours": {**tag, "resize_mode": "squash", "quick_gelu": True}})
    hub.put("ours/tiny", folder)
    chosen = {"image_mean": tag["mean"], "image_std": tag["std"], "image_interpolation": "bilinear", "image_resize_mode": "squash"}
    model, _, prepare = open_clip.create_model_and_transforms("tiny-clip", pretrained=weights(folder), force_quick_gelu=True, **chosen)
    with torch.inference_mode():
        theirs = np.concatenate([model.eval().encode_image(prepare(image)[None]).numpy() for image in images()])
    assert cosine(encode_items(load_encoder(encoder("tiny-clip", "ours")), images()).vectors, theirs).min() > 0.9999
    named, local = identity("tiny-clip", "ours"), identity("tiny-clip", weights(folder))
    assert named.details["weights"] == local.details["weights"]
    assert named.fingerprint != local.fingerprint
    with pytest.raises(InputError, match="nearest: ours"):
        identity("tiny-clip", "oars")


def test_a_model_of_the_hub_is_fetched_once_and_then_found_without_it(folder: Path, hub: ModelHub) -> None:
    """hf-hub: is its files in a folder: the same fingerprint, and no request once they are here."""
    hub.put("ours/clip", folder)
    hub.datasets["ours/clip"]["pytorch_model.bin"] = b"another library's"
    fetched = identity("hf-hub:ours/clip")
    requests = len(hub.requests)
    assert identity("hf-hub:ours/clip").fingerprint == fetched.fingerprint == identity(f"local-dir:{folder}").fingerprint
    assert load_encoder(encoder("hf-hub:ours/clip")).dim == 32
    assert len(hub.requests) == requests
    assert not hub.count_requests("pytorch_model.bin")


def test_a_hub_that_is_not_there_is_told_before_anything_is_read(hub: ModelHub) -> None:
    """No network is a SourceUnreachable, for a model and for the weights of a tag; no such model is an InputError."""
    with pytest.raises(InputError, match="no such model on the hub"):
        identity("hf-hub:ours/nothing")
    hub.close()
    close_session()
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        identity("hf-hub:ours/clip")
    with pytest.raises(SourceUnreachable, match="laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        identity("ViT-B-32", "laion2b_s34b_b79k")


def test_the_fingerprint_depends_on_what_the_model_computes_and_not_on_where_it_lies(folder: Path, tmp_path: Path) -> None:
    """A copy under another name is the same encoder; other weights, architecture or normalisation make another."""
    original = identity("tiny-clip", weights(folder))
    shutil.copy(weights(folder), tmp_path / "copy.safetensors")
    assert identity("tiny-clip", str(tmp_path / "copy.safetensors")).fingerprint == original.fingerprint
    other = clip_folder(tmp_path / "other", seed=1)
    others = [identity("tiny-clip", weights(other)), identity("ViT-B-32", weights(folder))]
    others += [identity("tiny-clip", weights(folder), normalize=False), identity(f"local-dir:{folder}")]
    assert len({original.fingerprint, *(each.fingerprint for each in others)}) == 5
    assert set(original.details["libraries"]) == {"open_clip_torch", "pillow", "timm", "torch", "torchvision"}


@pytest.mark.parametrize(
    ("model", "pretrained", "what"),
    [
        ("ViT-B-23", "openai", "nearest: .*ViT-B-32"),
        ("ViT-B-32", "openia", "nearest: openai"),
        ("ViT-B-32", "/nowhere/weights.pt", "encoder.pretrained = /nowhere/weights.pt"),
        ("ViT-B-32", "package:indexmill/configs/demo-text.yaml", "this is no checkpoint"),
        ("local-dir:/nowhere", None, "the model is not there"),
        ("local-dir:configs", None, "not an open_clip model's"),
    ],
)
def test_what_is_not_there_is_named(model: str, pretrained: str | None, what: str) -> None:
    """An unknown architecture or tag with the nearest one, a missing path, a file or folder that holds no weights."""
    with pytest.raises(InputError, match=what):
        identify(encoder(model, pretrained))


@pytest.mark.parametrize(("model", "pretrained"), [("ViT-B-32", None), ("hf-hub:ours/clip", "openai")])
def test_weights_come_from_one_place(model: str, pretrained: str | None) -> None:
    """An architecture without weights, and weights twice, are refused in the config."""
    with pytest.raises(ValidationError, match=r"encoder\.pretrained"):
        encoder(model, pretrained)


def test_other_weights_than_the_expected_ones_are_refused(folder: Path) -> None:
    """weights_sha256 is compared before anything is loaded."""
    with pytest.raises(InputError, match="a" * 64):
        identity("tiny-clip", weights(folder), weights_sha256="a" * 64)


def test_a_checkpoint_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    """Missing tensors, and tensors of other sizes, leave nothing at its random start: it is an InputError."""
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    tensors = open_clip.create_model("tiny-clip", pretrained=weights(folder)).state_dict()
    torch.save({**tensors, "visual.proj": torch.zeros(64, 16)}, tmp_path / "narrow.pth")
    for name in ("other.pth", "narrow.pth"):
        with pytest.raises(InputError, match="not one of tiny-clip"):
            OpenClipModel(encoder("tiny-clip", str(tmp_path / name)), "float32")


@pytest.mark.usefixtures("folder")
def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """A file that executes something when it is unpickled without care is refused, and executes nothing."""
    path = malicious(tmp_path / "weights.pt", tmp_path / "witness")
    with pytest.raises(InputError, match="nothing but tensors"):
        load_encoder(encoder("tiny-clip", str(path)))
    assert not (tmp_path / "witness").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "witness").exists()


def test_an_index_of_images_answers_a_text(build: Build, pictures: Path, folder: Path, tmp_path: Path) -> None:
    """The ranking is that of the text's vector against every image's; a text and an image at once are refused."""
    kind = ("encoder.kind=open-clip", f"encoder.model=local-dir:{folder}", "encoder.weights_sha256=null")
    assert build(pictures, *kind)["published"]
    root = str(tmp_path / "root")
    answer = search_index(root, "demo-images", text="a photo of a seven", image=None, k=5)
    model = OpenClipModel(encoder(f"local-dir:{folder}"), "float32")
    paths = sorted(pictures.rglob("*.png"))
    from indexmill.tasks.validation.image_reader import UNLIMITED, read_image

    vectors = encode_items(model, [read_image(path.read_bytes(), UNLIMITED) for path in paths]).vectors
    scores = vectors @ encode_items(model.text_encoder, ["a photo of a seven"]).vectors[0]
    assert [result["score"] for result in answer["results"]] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-4)
    with pytest.raises(InputError, match="asked with one query"):
        search_index(root, "demo-images", text="a seven", image=paths[0], k=5)
