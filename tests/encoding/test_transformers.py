"""Models of transformers give the vectors of the library's own calls, as tutorials have them; only tensors are unpickled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from indexmill.configs.encoders import TransformersEncoderConfig
from indexmill.flows.cli.search import search_index
from indexmill.storage.errors import InputError
from indexmill.tasks.encoding import EncoderIdentity, identify, load_encoder
from indexmill.tasks.encoding.base import SupportsTexts, encode_items
from tests.conftest import Build
from tests.encoding.checkpoints import ModelHub, make_images, open_model_hub, write_malicious_pickle
from tests.encoding.transformers_models import (
    CONTEXT,
    IMAGE_ONLY,
    PATCHES,
    TEXT,
    TWO_SIDED,
    make_config,
    write_image_model,
    write_image_processor,
    write_model,
    write_tokenizer,
    write_two_sided_model,
)

QUICK = ("CLIP", "Siglip2", "DINOv3ViT", "ViT")  # one of each kind of pooling and input; the others are slow tests


def list_cases(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in names]


TEXTS = ["a photo of a cat", "dog", "the red car", "a " * 13, "a " * 14, "a " * 15, "cat " * 40]


def make_encoder_config(folder: Path | str, **settings: Any) -> TransformersEncoderConfig:
    return TransformersEncoderConfig(kind="transformers", model=str(folder), **settings)


def load_library(folder: Path) -> tuple[Any, Any]:
    """The model and the image processor, by the library."""
    return transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoImageProcessor.from_pretrained(folder)


def normalize(vectors: torch.Tensor) -> np.ndarray:
    return np.asarray(torch.nn.functional.normalize(vectors, dim=1).numpy())


@torch.inference_mode()
def get_image_features(folder: Path, images: Sequence[Image.Image]) -> np.ndarray:
    """As tutorials do, one image at a time."""
    model, processor = load_library(folder)
    return normalize(
        torch.cat([model.get_image_features(**processor(images=image, return_tensors="pt")).pooler_output for image in images])
    )


@torch.inference_mode()
def get_text_features(folder: Path, texts: Sequence[str], padding: str) -> np.ndarray:
    """As tutorials do, one text at a time; SigLIP wants the padding that it was trained with."""
    model, tokenizer = transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer([text], padding=padding, max_length=CONTEXT, truncation=True, return_tensors="pt") for text in texts]
    return normalize(torch.cat([model.get_text_features(**entry).pooler_output for entry in tokens]))


@pytest.mark.parametrize("name", list_cases(TWO_SIDED))
def test_both_sides_of_a_model_give_the_librarys_features(name: str, tmp_path: Path) -> None:
    """Images through the model's own processor, texts in batches sorted by length: within 1e-5 of one at a time."""
    folder = write_two_sided_model(tmp_path / name, name)
    config = make_encoder_config(folder, batch_size=3)
    assert identify(config).modalities == ("image", "text")
    encoder = load_encoder(config)
    assert isinstance(encoder, SupportsTexts)
    assert encode_items(encoder, make_images()).vectors == pytest.approx(get_image_features(folder, make_images()), abs=1e-5)
    padding = "max_length" if name.startswith("Siglip") else "longest"
    encoded = encode_items(encoder.text_encoder, TEXTS)
    assert encoded.vectors == pytest.approx(get_text_features(folder, TEXTS, padding), abs=1e-5)
    if name != "Siglip2":  # its tokenizer divides words in its own way
        # Start and end take two tokens of the context.
        assert encoded.truncated.tolist() == [len(text.split()) > CONTEXT - 2 for text in TEXTS]
    assert encoder.dim == encoder.text_encoder.dim == encoded.vectors.shape[1]


@pytest.mark.parametrize("name", list_cases(IMAGE_ONLY))
def test_a_model_of_images_is_pooled_as_its_card_says(name: str, tmp_path: Path) -> None:
    """pooler_output, but for ViT, DeiT and ViTMSN the first token of the last layer."""
    folder = write_image_model(tmp_path / name, name)
    model, processor = load_library(folder)
    with torch.inference_mode():
        outputs = [model(**processor(images=image, return_tensors="pt")) for image in make_images()]
    takes_first_token = name in ("ViT", "DeiT", "ViTMSN")
    theirs = [output.last_hidden_state[:, 0] if takes_first_token else output.pooler_output.flatten(1) for output in outputs]
    config = make_encoder_config(folder, batch_size=2)
    assert encode_items(load_encoder(config), make_images()).vectors == pytest.approx(normalize(torch.cat(theirs)), abs=1e-5)
    assert identify(config).modalities == ("image",)
    assert not isinstance(load_encoder(config), SupportsTexts)


@pytest.mark.parametrize(("pooling", "compute"), [
    ("pooler", lambda output: output.pooler_output),
    ("cls", lambda output: output.last_hidden_state[:, 0]),
    ("mean", lambda output: output.last_hidden_state.mean(dim=1)),
])  # fmt: skip
def test_a_named_pooling_is_taken(pooling: Any, compute: Any, tmp_path: Path) -> None:
    """For images, where a processor leaves no token out, and for texts, where padding is no token."""
    folder = write_image_model(tmp_path / "vit", "ViT")
    model, processor = load_library(folder)
    with torch.inference_mode():
        theirs = torch.cat([compute(model(**processor(images=image, return_tensors="pt"))) for image in make_images()])
    ours = encode_items(load_encoder(make_encoder_config(folder, pooling=pooling)), make_images()).vectors
    assert ours == pytest.approx(normalize(theirs), abs=1e-5)

    folder = write_tokenizer(write_model(tmp_path / "bert", "BertModel", make_config("Bert", TEXT)))
    text_model, tokenizer = transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        outputs = [text_model(**tokenizer(text, truncation=True, max_length=CONTEXT, return_tensors="pt")) for text in TEXTS]
    config = make_encoder_config(folder, pooling=pooling)
    assert identify(config).modalities == ("text",)
    ours = encode_items(load_encoder(config), TEXTS).vectors
    assert ours == pytest.approx(normalize(torch.cat([compute(output) for output in outputs])), abs=1e-5)


def test_the_mean_of_a_feature_map_is_over_its_pixels(tmp_path: Path) -> None:
    """Convolutional models have (n, dim, height, width) instead of tokens."""
    folder = write_image_model(tmp_path / "resnet", "ResNet")
    model, processor = load_library(folder)
    with torch.inference_mode():
        theirs = torch.cat([model(**processor(images=image, return_tensors="pt")).last_hidden_state for image in make_images()])
    ours = encode_items(load_encoder(make_encoder_config(folder, pooling="mean")), make_images()).vectors
    assert ours == pytest.approx(normalize(theirs.mean(dim=(2, 3))), abs=1e-5)


def test_one_side_of_a_clip_model_keeps_its_projection(tmp_path: Path) -> None:
    """image_embeds of CLIPVisionModelWithProjection and text_embeds of CLIPTextModelWithProjection."""
    vision = write_model(tmp_path / "vision", "CLIPVisionModelWithProjection", make_config("CLIPVision", {**PATCHES, "projection_dim": 24}))
    write_image_processor(vision, "CLIPVision")
    text = write_tokenizer(
        write_model(tmp_path / "text", "CLIPTextModelWithProjection", make_config("CLIPText", {**TEXT, "projection_dim": 24}))
    )
    model, processor = transformers.CLIPVisionModelWithProjection.from_pretrained(vision).eval(), load_library(vision)[1]
    with torch.inference_mode():
        theirs = torch.cat([model(**processor(images=image, return_tensors="pt")).image_embeds for image in make_images()])
    assert encode_items(load_encoder(make_encoder_config(vision)), make_images()).vectors == pytest.approx(normalize(theirs), abs=1e-5)
    text_model: Any = transformers.CLIPTextModelWithProjection.from_pretrained(text).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(text)
    with torch.inference_mode():
        theirs = torch.cat([text_model(**tokenizer([entry], return_tensors="pt")).text_embeds for entry in TEXTS[:3]])
    assert encode_items(load_encoder(make_encoder_config(text)), TEXTS[:3]).vectors == pytest.approx(normalize(theirs), abs=1e-5)


def test_prompts_precede_texts_and_nothing_else(tmp_path: Path) -> None:
    """A prompt is part of the text; a model of images takes none."""
    folder = write_two_sided_model(tmp_path / "clip", "CLIP")
    config = make_encoder_config(folder, query_prompt="a photo of ")
    query, document = load_encoder(config, role="query"), load_encoder(config)
    assert isinstance(query, SupportsTexts)
    assert isinstance(document, SupportsTexts)
    assert encode_items(query.text_encoder, ["cat"]).vectors == pytest.approx(
        encode_items(document.text_encoder, ["a photo of cat"]).vectors, abs=1e-6
    )
    assert identify(config).for_role("query").fingerprint != identify(config).fingerprint
    with pytest.raises(InputError, match="takes images only"):
        identify(make_encoder_config(write_image_model(tmp_path / "dino", "Dinov2"), query_prompt="a photo of "))


def test_bfloat16_vectors_are_close_to_float32(tmp_path: Path) -> None:
    """The whole model runs in the precision, inputs included; vectors are float32 of unit length."""
    config = make_encoder_config(write_image_model(tmp_path / "dino", "DINOv3ViT"))
    exact, fast = (encode_items(load_encoder(config, precision), make_images()).vectors for precision in ("float32", "bfloat16"))
    assert fast.dtype == np.float32
    assert (exact * fast).sum(axis=1).min() > 0.99
    assert not np.array_equal(exact, fast)


def test_the_fingerprint_depends_on_the_files_and_the_pooling_and_not_on_the_path(tmp_path: Path) -> None:
    """Files that the library does not read do not count."""

    def get_identity(folder: Path, **settings: Any) -> EncoderIdentity:
        return identify(make_encoder_config(folder, **settings))

    folder = write_image_model(tmp_path / "vit", "ViT")
    original = get_identity(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("a card")
    (copy / "pytorch_model.bin").write_bytes(b"the same weights in another format")
    assert get_identity(copy).fingerprint == original.fingerprint
    (copy / "preprocessor_config.json").write_text(json.dumps({"size": 8}))
    others = [get_identity(copy), get_identity(folder, pooling="mean"), get_identity(write_image_model(tmp_path / "b", "ViT", seed=1))]
    assert len({original.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert get_identity(folder, pooling="cls").fingerprint == original.fingerprint  # it is the pooling of `auto`
    assert set(original.details["libraries"]) == {"pillow", "tokenizers", "torch", "torchvision", "transformers"}


def test_what_cannot_be_known_is_refused(tmp_path: Path) -> None:
    """An architecture without a known pooling, an output that a model lacks, a folder without a model."""
    bert = write_tokenizer(write_model(tmp_path / "bert", "BertModel", make_config("Bert", TEXT)))
    with pytest.raises(InputError, match="pooling of this architecture is not known") as failed:
        identify(make_encoder_config(bert))
    assert "model_type bert, architecture BertModel" in str(failed.value)
    with pytest.raises(InputError, match="no such output"):
        identify(make_encoder_config(bert, pooling="projection"))
    with pytest.raises(InputError, match="no such output"):
        identify(make_encoder_config(write_two_sided_model(tmp_path / "clip", "CLIP"), pooling="cls"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a model folder of transformers"):
        identify(make_encoder_config(tmp_path / "empty"))
    bare = write_model(tmp_path / "bare", "Dinov2Model", make_config("Dinov2", PATCHES))
    with pytest.raises(InputError, match="without an image processor and without a tokenizer"):
        identify(make_encoder_config(bare))
    with pytest.raises(InputError, match="pooler_output"):
        load_encoder(make_encoder_config(write_image_model(tmp_path / "msn", "ViTMSN"), pooling="pooler"))


def test_no_weight_stays_random(tmp_path: Path) -> None:
    """A checkpoint without a tensor that the vectors depend on is refused; without the dense layer that `cls` does not use, it is not."""
    from safetensors.torch import load_file, save_file

    folder = write_image_model(tmp_path / "vit", "ViT")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    expected = encode_items(load_encoder(make_encoder_config(folder)), make_images()).vectors
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}, weights, {"format": "pt"})
    assert encode_items(load_encoder(make_encoder_config(folder)), make_images()).vectors == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError, match=r"no pooler\.dense"):
        load_encoder(make_encoder_config(folder, pooling="pooler"))
    lacking = next(name for name in tensors if name.endswith("layernorm_before.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lacking}, weights, {"format": "pt"})
    with pytest.raises(InputError, match="every tensor of the architecture"):
        load_encoder(make_encoder_config(folder))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """A weights file that runs code when it is unpickled is refused, and runs nothing."""
    folder = write_image_model(tmp_path / "dino", "Dinov2")
    (folder / "model.safetensors").unlink()
    write_malicious_pickle(folder / "pytorch_model.bin", tmp_path / "witness")
    with pytest.raises(InputError, match="the model cannot be loaded"):
        load_encoder(make_encoder_config(folder))
    assert not (tmp_path / "witness").exists()


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    """auto_map names a module of the repository; the library would import it with trust_remote_code."""
    folder = write_image_model(tmp_path / "dino", "Dinov2")
    (folder / "custom.py").write_text(f"import os; os.mkdir({str(tmp_path / 'witness')!r})")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError):
        load_encoder(make_encoder_config(folder, pooling="cls"))
    assert not (tmp_path / "witness").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with open_model_hub(monkeypatch, tmp_path / "hub") as served:
        yield served


def test_a_hub_model_is_downloaded_once_and_only_what_the_library_reads(hub: ModelHub, tmp_path: Path) -> None:
    """The fingerprint is that of a local copy; weights of other libraries and in other formats stay where they are."""
    folder = write_image_model(tmp_path / "dino", "Dinov2")
    hub.add_model("ours/dino", folder)
    hub.datasets["ours/dino"] |= {"pytorch_model.bin": b"the same again", "onnx/model.onnx": b"another format"}
    downloaded = identify(make_encoder_config("ours/dino"))
    requests = len(hub.requests)
    assert identify(make_encoder_config("ours/dino")).fingerprint == downloaded.fingerprint
    assert downloaded.fingerprint == identify(make_encoder_config(folder)).fingerprint
    assert load_encoder(make_encoder_config("ours/dino")).dim == 32
    assert len(hub.requests) == requests
    assert not hub.count_requests("pytorch_model.bin")
    assert not hub.count_requests("model.onnx")


@pytest.mark.slow
def test_an_image_index_can_be_searched_by_text(build: Build, pictures: Path, tmp_path: Path) -> None:
    """The snapshot says what its encoder takes. The ranking is by the cosine of the text with every image."""
    folder = write_two_sided_model(tmp_path / "siglip", "Siglip")
    assert build(pictures, "encoder.kind=transformers", f"encoder.model={folder}", "encoder.weights_sha256=null")["published"]
    response = search_index(str(tmp_path / "root"), "demo-images", text="a photo of cat", image=None, k=5)
    encoder = load_encoder(make_encoder_config(folder))
    assert isinstance(encoder, SupportsTexts)
    images = [Image.open(path).convert("RGB") for path in sorted(pictures.rglob("*.png"))]
    scores = encode_items(encoder, images).vectors @ encode_items(encoder.text_encoder, ["a photo of cat"]).vectors[0]
    assert [result["score"] for result in response["results"]] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-4)
