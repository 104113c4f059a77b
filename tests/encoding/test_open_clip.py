"""open_clip models give the vectors of the library's own loop, for images and texts; only tensors are unpickled."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
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
from indexmill.serve import open_index
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.tasks.encoding import EncoderIdentity, identify, load_encoder
from indexmill.tasks.encoding.base import SupportsTexts, encode_items
from indexmill.tasks.encoding.first_token import encode_first_token, reads_first_token
from indexmill.tasks.encoding.onnx_encoders import OnnxImageEncoder, OnnxTextEncoder
from indexmill.tasks.encoding.open_clip import OpenClipModel, compute_text_features
from tests.conftest import Build
from tests.encoding.checkpoints import (
    TINY_CLIP,
    ModelHub,
    compute_cosines,
    make_images,
    open_model_hub,
    write_clip_folder,
    write_malicious_pickle,
)

SEARCH_PROGRAM = """
import sys
from pathlib import Path
from indexmill.flows.cli.search import search_index
queries = {{"text": "a photo of a seven", "image": None}}, {{"text": None, "image": Path({image!r})}}
answers = [search_index({root!r}, "demo-images", k=5, **query)["results"] for query in queries]
print(tuple([result["key"] for result in results] for results in answers), sorted({{"torch", "open_clip", "timm"}} & {{*sys.modules}}))
"""
TEXTS = ["a photo of a seven", "a cat", "", "word " * 200, "word " * 38, "word " * 39]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP model with its own configuration; `tiny-clip` names the same architecture in the library."""
    folder = write_clip_folder(tmp_path_factory.mktemp("models") / "clip")
    (folder.parent / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder.parent / "tiny-clip.json")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    with open_model_hub(monkeypatch, tmp_path / "cache") as model_hub:
        yield model_hub


def get_weights_path(folder: Path) -> str:
    return str(folder / "open_clip_model.safetensors")


def make_config(model: str, pretrained: str | None = None, **options: Any) -> OpenClipEncoderConfig:
    return OpenClipEncoderConfig(kind="open-clip", model=model, pretrained=pretrained, **options)


def get_identity(*arguments: str, **options: Any) -> EncoderIdentity:
    return identify(make_config(*arguments, **options))


def test_images_and_texts_agree_with_the_librarys_own_loop_one_at_a_time(folder: Path) -> None:
    """Batches change nothing: cosine at least 0.9999, unit length, and one space for both."""
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    with torch.inference_mode():
        expected_images = np.concatenate([model.encode_image(transform(image)[None]).numpy() for image in make_images()])
        expected_texts = np.concatenate([model.encode_text(tokenizer([text])).numpy() for text in TEXTS])
    ours = load_encoder(make_config(name, batch_size=2))
    assert isinstance(ours, SupportsTexts)
    image_vectors, text_vectors = encode_items(ours, make_images()).vectors, encode_items(ours.text_encoder, TEXTS).vectors
    assert image_vectors.shape == (5, ours.dim) == (5, 32)
    assert text_vectors.shape == (6, 32)
    assert image_vectors.dtype == text_vectors.dtype == np.float32
    assert compute_cosines(image_vectors, expected_images).min() > 0.9999
    assert compute_cosines(text_vectors, expected_texts).min() > 0.9999
    assert np.linalg.norm(np.concatenate([image_vectors, text_vectors]), axis=1) == pytest.approx(np.ones(11), abs=1e-6)


def test_a_text_is_truncated_exactly_when_its_tokens_do_not_fit(folder: Path) -> None:
    """The tiny model takes 40 tokens, two of which mark start and end: 38 words fit, 39 do not."""
    model = load_encoder(make_config(f"local-dir:{folder}"))
    assert isinstance(model, SupportsTexts)
    words = [0, 1, 37, 38, 39, 40, 41, 200]
    assert encode_items(model.text_encoder, ["word " * count for count in words]).truncated.tolist() == [count > 38 for count in words]


def test_bfloat16_vectors_are_close_to_float32(folder: Path) -> None:
    """bfloat16 of random weights: mean cosine at least 0.999 to float32, float32 vectors of unit length."""
    exact, fast = (load_encoder(make_config(f"local-dir:{folder}"), precision) for precision in ("float32", "bfloat16"))
    assert isinstance(exact, SupportsTexts)
    assert isinstance(fast, SupportsTexts)
    for ours, theirs, items in ((fast, exact, make_images()), (fast.text_encoder, exact.text_encoder, TEXTS)):
        vectors = encode_items(ours, items).vectors
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(items)), abs=1e-6)
        assert compute_cosines(vectors, encode_items(theirs, items).vectors).mean() > 0.999


def test_other_text_towers_get_all_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is dropped only where it cannot change the vector."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a cat"])
    with torch.inference_mode():
        assert compute_text_features(model, tokens) == pytest.approx(model.encode_text(tokens), abs=1e-5)
        monkeypatch.setattr(model, "attn_mask", None)
        assert torch.equal(compute_text_features(model, tokens), model.encode_text(tokens))


def test_the_last_block_is_computed_for_the_first_token_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features are the library's, from 17 tokens in the first block and one in the second."""
    visual: Any = open_clip.create_model(f"local-dir:{folder}").eval().visual
    pixels, lengths = torch.randn(3, 3, 32, 32), list[int]()
    assert reads_first_token(visual)
    with torch.inference_mode():
        expected = visual(pixels)
        for block in visual.transformer.resblocks:
            block.mlp.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
        assert encode_first_token(visual, pixels) == pytest.approx(expected, abs=1e-5)
        assert lengths == [17, 1]
        monkeypatch.setattr(visual, "proj", None)
        assert encode_first_token(visual, pixels) == pytest.approx(visual(pixels), abs=1e-5)
    for name, value in (("pool_type", "avg"), ("attn_pool", torch.nn.Identity()), ("output_tokens", True)):
        with monkeypatch.context() as patch:
            patch.setattr(visual, name, value)
            assert not reads_first_token(visual)
    assert not reads_first_token(torch.nn.Identity())


def test_vectors_keep_their_length_without_normalization(folder: Path) -> None:
    """normalize: false gives the model's own vectors."""
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    with torch.inference_mode():
        theirs = model.eval().encode_image(transform(make_images()[0])[None]).numpy()
    ours = encode_items(load_encoder(make_config(name, normalize=False)), make_images()[:1]).vectors
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_an_architecture_takes_a_local_checkpoint_with_default_preprocessing(folder: Path) -> None:
    """`model` and `pretrained` work as in open_clip, with a safetensors file and with a file that torch saved."""
    torch.save(open_clip.create_model("tiny-clip", pretrained=get_weights_path(folder)).state_dict(), folder.parent / "saved.pt")
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip", pretrained=get_weights_path(folder))
    with torch.inference_mode():
        theirs = np.concatenate([model.eval().encode_image(transform(image)[None]).numpy() for image in make_images()])
    for path in (get_weights_path(folder), str(folder.parent / "saved.pt")):
        assert compute_cosines(encode_items(load_encoder(make_config("tiny-clip", path)), make_images()).vectors, theirs).min() > 0.9999


def test_a_tag_sets_preprocessing_and_activation(folder: Path, hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, deviation, interpolation, resize mode and QuickGELU are the tag's, not the file's."""
    tag = {"hf_hub": "ours/tiny/", "url": "", "mean": (0.3, 0.2, 0.1), "std": (0.5, 0.4, 0.3), "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", {"ours": {**tag, "resize_mode": "squash", "quick_gelu": True}})
    hub.add_model("ours/tiny", folder)
    settings = {"image_mean": tag["mean"], "image_std": tag["std"], "image_interpolation": "bilinear", "image_resize_mode": "squash"}
    model, _, transform = open_clip.create_model_and_transforms(
        "tiny-clip", pretrained=get_weights_path(folder), force_quick_gelu=True, **settings
    )
    with torch.inference_mode():
        theirs = np.concatenate([model.eval().encode_image(transform(image)[None]).numpy() for image in make_images()])
    assert compute_cosines(encode_items(load_encoder(make_config("tiny-clip", "ours")), make_images()).vectors, theirs).min() > 0.9999
    named, local = get_identity("tiny-clip", "ours"), get_identity("tiny-clip", get_weights_path(folder))
    assert named.details["weights"] == local.details["weights"]
    assert named.fingerprint != local.fingerprint
    with pytest.raises(InputError, match="closest names: ours"):
        get_identity("tiny-clip", "oars")
    monkeypatch.delattr(open_clip.pretrained, "get_pretrained_cfg")  # what a known tag names is not asked again
    assert get_identity("tiny-clip", "ours").fingerprint == named.fingerprint


@pytest.mark.slow
def test_a_hub_model_is_downloaded_once(folder: Path, hub: ModelHub) -> None:
    """hf-hub: gives the fingerprint of a local copy, and makes no request once the files are cached."""
    hub.add_model("ours/clip", folder)
    hub.datasets["ours/clip"]["pytorch_model.bin"] = b"another library's"
    downloaded = get_identity("hf-hub:ours/clip")
    requests = len(hub.requests)
    assert get_identity("hf-hub:ours/clip").fingerprint == downloaded.fingerprint == get_identity(f"local-dir:{folder}").fingerprint
    assert load_encoder(make_config("hf-hub:ours/clip")).dim == 32
    assert len(hub.requests) == requests
    assert not hub.count_requests("pytorch_model.bin")


def test_an_unreachable_hub_is_an_error_that_names_the_model(hub: ModelHub) -> None:
    """No network is a SourceUnreachable, for a model and for the weights of a tag; no such model is an InputError."""
    with pytest.raises(InputError, match="no such model on the hub"):
        get_identity("hf-hub:ours/nothing")
    hub.close()
    close_session()
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        get_identity("hf-hub:ours/clip")
    with pytest.raises(SourceUnreachable, match="laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        get_identity("ViT-B-32", "laion2b_s34b_b79k")


def test_the_fingerprint_depends_on_the_model_and_not_on_its_path(folder: Path, tmp_path: Path) -> None:
    """A copy under another name is the same encoder; other weights, architecture or normalization make another."""
    original = get_identity("tiny-clip", get_weights_path(folder))
    shutil.copy(get_weights_path(folder), tmp_path / "copy.safetensors")
    assert get_identity("tiny-clip", str(tmp_path / "copy.safetensors")).fingerprint == original.fingerprint
    other = write_clip_folder(tmp_path / "other", seed=1)
    others = [get_identity("tiny-clip", get_weights_path(other)), get_identity("ViT-B-32", get_weights_path(folder))]
    others += [get_identity("tiny-clip", get_weights_path(folder), normalize=False), get_identity(f"local-dir:{folder}")]
    assert len({original.fingerprint, *(identity.fingerprint for identity in others)}) == 5
    assert set(original.details["libraries"]) == {"open_clip_torch", "pillow", "timm", "torch", "torchvision"}


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-23", "openai", "closest names: .*ViT-B-32"),
        ("ViT-B-32", "openia", "closest names: openai"),
        ("ViT-B-32", "/nowhere/weights.pt", "encoder.pretrained = /nowhere/weights.pt"),
        ("ViT-B-32", "package:indexmill/configs/demo-text.yaml", "not a checkpoint file"),
        ("local-dir:/nowhere", None, "model not found"),
        ("local-dir:configs", None, "not a model folder of open_clip"),
    ],
)
def test_unknown_names_and_missing_files_are_named(model: str, pretrained: str | None, message: str) -> None:
    """An unknown architecture or tag with the closest names, a missing path, a file or folder that holds no weights."""
    with pytest.raises(InputError, match=message):
        identify(make_config(model, pretrained))


@pytest.mark.parametrize(("model", "pretrained"), [("ViT-B-32", None), ("hf-hub:ours/clip", "openai")])
def test_weights_have_exactly_one_source(model: str, pretrained: str | None) -> None:
    """An architecture without weights, and weights given twice, are refused in the config."""
    with pytest.raises(ValidationError, match=r"encoder\.pretrained"):
        make_config(model, pretrained)


def test_unexpected_weights_are_refused(folder: Path) -> None:
    """weights_sha256 is compared before anything is loaded."""
    with pytest.raises(InputError, match="a" * 64):
        get_identity("tiny-clip", get_weights_path(folder), weights_sha256="a" * 64)


def test_a_checkpoint_of_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    """Missing tensors and tensors of other sizes are an InputError: no weight stays random."""
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    tensors = open_clip.create_model("tiny-clip", pretrained=get_weights_path(folder)).state_dict()
    torch.save({**tensors, "visual.proj": torch.zeros(64, 16)}, tmp_path / "narrow.pth")
    for name in ("other.pth", "narrow.pth"):
        with pytest.raises(InputError, match="does not fit tiny-clip"):
            OpenClipModel(make_config("tiny-clip", str(tmp_path / name)), "float32")


@pytest.mark.usefixtures("folder")
def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """A file that runs code when it is unpickled is refused, and runs nothing."""
    path = write_malicious_pickle(tmp_path / "weights.pt", tmp_path / "witness")
    with pytest.raises(InputError, match="nothing but tensors"):
        load_encoder(make_config("tiny-clip", str(path)))
    assert not (tmp_path / "witness").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "witness").exists()


@pytest.mark.slow
def test_an_image_index_can_be_searched_by_text(build: Build, pictures: Path, folder: Path, tmp_path: Path) -> None:
    """The ranking is by the cosine of the text with every image; a text and an image at once are refused.

    The exports of both sides answer, so a process that searches does not import torch.
    """
    kind = ("encoder.kind=open-clip", f"encoder.model=local-dir:{folder}", "encoder.weights_sha256=null")
    assert build(pictures, *kind)["published"]
    root = str(tmp_path / "root")
    response = search_index(root, "demo-images", text="a photo of a seven", image=None, k=5)
    model = OpenClipModel(make_config(f"local-dir:{folder}"), "float32")
    paths = sorted(pictures.rglob("*.png"))
    from indexmill.tasks.validation.image_reader import UNLIMITED, read_image

    vectors = encode_items(model, [read_image(path.read_bytes(), UNLIMITED) for path in paths]).vectors
    scores = vectors @ encode_items(model.text_encoder, ["a photo of a seven"]).vectors[0]
    assert [result["score"] for result in response["results"]] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-4)
    with open_index(root, "demo-images") as index:
        expected_by_image = index.search(images=[paths[7]], k=5).results[0]
        assert isinstance(index.encoder.load("image"), OnnxImageEncoder)
        assert isinstance(index.encoder.load("text"), OnnxTextEncoder)
    assert [expected_by_image[0].key, expected_by_image[0].score] == [paths[7].relative_to(pictures).as_posix(), pytest.approx(1, abs=1e-6)]
    program = SEARCH_PROGRAM.format(root=root, image=str(paths[7]))
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=900, check=False)
    keys = [result["key"] for result in response["results"]], [result.key for result in expected_by_image]
    assert run.stdout.strip() == f"{keys} []", run.stderr
    with pytest.raises(InputError, match="exactly one query"):
        search_index(root, "demo-images", text="a seven", image=paths[0], k=5)
