"""Image encoders and both sides of CLIP exported to ONNX: the same vectors without torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from indexmill.configs.encoders import EncoderConfig, OpenClipEncoderConfig, TimmEncoderConfig
from indexmill.configs.loading import load_config
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import ExportSettings, get_weights_path, load_onnx_export
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify, load_encoder
from indexmill.tasks.encoding.base import encode_items
from indexmill.tasks.encoding.onnx_encoders import load_onnx_encoder, open_onnx_encoder
from indexmill.tasks.encoding.onnx_export import ExportRequest, ensure_onnx_export
from indexmill.tasks.encoding.open_clip import OpenClipModel
from indexmill.tasks.encoding.protocol import ExportEncoder, ExportResult, ModelSpec
from indexmill.tasks.encoding.worker import _export_encoder, load_modality_encoder
from indexmill.tasks.sources import Item
from tests.encoding.checkpoints import make_images, write_clip_folder
from tests.encoding.test_clip_tokenizer import ODD_TEXTS
from tests.stage_inputs import ListSource, run_split


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClipEncoderConfig:
    """A tiny CLIP model that squashes its images, with a prompt before queries."""
    folder = write_clip_folder(tmp_path_factory.mktemp("models") / "clip")
    return OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{folder}", query_prompt="a photo of ")


def make_timm_config(name: str, folder: Path, **options: bool) -> TimmEncoderConfig:
    """A timm model with random weights."""
    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), folder / "weights.pth")
    return TimmEncoderConfig(kind="timm", model=name, pretrained=str(folder / "weights.pth"), **options)


@dataclass(frozen=True)
class Export:
    """An encoder, and the folder and settings of its export."""

    encoder: Any
    folder: Path
    settings: ExportSettings

    def copy_to(self, graph_path: Path, tokenizer_path: Path) -> ExportSettings:
        """Do what the encoder's own `export` does, without the seconds that it takes."""
        shutil.copy(self.folder / "graph.onnx", graph_path)
        shutil.copy(get_weights_path(self.folder / "graph.onnx"), get_weights_path(graph_path))
        return self.settings


def export(config: EncoderConfig, modality: Modality, folder: Path) -> Export:
    """Load a model, and export one of its sides."""
    encoder: Any = load_modality_encoder(ModelSpec(config, "float32", modality, "query"))
    return Export(encoder, folder, encoder.export(folder / "graph.onnx", folder / "tokenizer.json"))


def check_export(export: Export, items: list[Image.Image] | list[str]) -> None:
    """The export gives the model's vectors, one at a time and in batches."""
    encoder = export.encoder
    exported = load_onnx_encoder(export.folder / "graph.onnx", export.folder / "tokenizer.json", export.settings, encoder.dim)
    assert (exported.modality, exported.decode_size) == (encoder.modality, encoder.decode_size)
    expected = encode_items(encoder, items)
    for size in (1, 3, 64):
        exported.batch_size = exported.window = size
        encoded = encode_items(exported, items)
        assert encoded.vectors.dtype == np.float32
        assert np.abs(encoded.vectors - expected.vectors).max() < 1e-5 * np.abs(expected.vectors).max()
        assert encoded.truncated.tolist() == expected.truncated.tolist()


@pytest.fixture(scope="module")
def clip_images(clip: OpenClipEncoderConfig, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(clip, "image", tmp_path_factory.mktemp("images"))


def test_clips_images(clip_images: Export) -> None:
    """Images of any shape."""
    assert clip_images.encoder.modality == "image"
    check_export(clip_images, make_images())


def test_clips_texts(clip: OpenClipEncoderConfig, tmp_path: Path) -> None:
    """Texts of any length and kind, after their prompt; truncated ones are reported."""
    texts = export(clip, "text", tmp_path)
    assert texts.encoder.modality == "text"
    check_export(texts, ODD_TEXTS)


@pytest.mark.slow
def test_a_clip_model_that_reads_its_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its texts are padded to the model's number of tokens."""
    from indexmill.tasks.encoding import open_clip as module

    monkeypatch.setattr(module, "_ignores_padding", lambda _: False)
    config = OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{write_clip_folder(tmp_path / 'clip')}")
    check_export(export(config, "text", tmp_path), ODD_TEXTS[:6])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "resnet18", "mobilenetv3_small_050"])
def test_timms_images(name: str, tmp_path: Path) -> None:
    """Transformers and convolutions, with and without normalization."""
    check_export(export(make_timm_config(name, tmp_path, normalize=name != "test_vit"), "image", tmp_path), make_images())


@pytest.mark.slow
def test_real_weights_of_efficientnet(tmp_path: Path) -> None:
    """The central square of images of any shape."""
    check_export(export(load_config("demo-images").encoder, "image", tmp_path), make_images())


def test_what_cannot_be_exported_is_refused(clip: OpenClipEncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another precision, a tokenizer that only the library has, and preprocessing that only the library does."""
    fast = OpenClipModel(clip, "bfloat16")
    model = OpenClipModel(clip, "float32")
    monkeypatch.setattr(model.text_encoder._tokenizer, "reduction_fn", lambda *_: None)
    monkeypatch.setattr(model._preprocessor, "resize", None)
    for encoder in (fast, fast.text_encoder, model, model.text_encoder):
        with pytest.raises(InputError, match="cannot be exported to ONNX"):
            encoder.export(tmp_path / "graph.onnx", tmp_path / "tokenizer.json")
    assert not [*tmp_path.iterdir()]


class InlineProcess:
    """Exports in this process."""

    def __init__(self) -> None:
        self.results: list[ExportResult] = []

    def export(self, job: ExportEncoder) -> ExportResult:
        self.results.append(_export_encoder(job, load_modality_encoder(job.model)))
        return self.results[-1]


def test_an_export_is_compared_on_the_builds_images(
    root: Root, clip: OpenClipEncoderConfig, clip_images: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened if its vectors are the model's; a graph with other vectors leaves no files, and torch encodes."""
    monkeypatch.setattr(OpenClipModel, "export", lambda self, *paths: clip_images.copy_to(*paths))
    config, image_root = clip, tmp_path / "images"
    image_root.mkdir()
    for number, image in enumerate(make_images()):
        image.save(image_root / f"{number}.png")
    source = ListSource([Item(f"{n}.png", path=f"{n}.png") for n in range(5)], labeled=False, image_root=image_root)
    fingerprint, process = identify(config).for_export("image").fingerprint, InlineProcess()
    request = ExportRequest(
        config=config, fingerprint=fingerprint, modality="image", items=root.file(run_split(root, source).table), image_root=str(image_root)
    )
    ensure_onnx_export(root, process, request)  # type: ignore[arg-type]
    exported = open_onnx_encoder(root, fingerprint, "image")
    assert exported is not None
    assert process.results[0].compared == 5
    record = load_onnx_export(root, fingerprint, "image")
    assert record is not None and record.graph is not None and record.weights is not None
    folder = root.onnx_export(fingerprint, "image")
    assert {path.name: path.stat().st_size for path in folder.glob("graph*")} == {
        "graph.onnx": record.graph.size,
        "graph.onnx.data": record.weights.size,
    }
    expected = encode_items(load_encoder(config), make_images()).vectors
    assert np.abs(encode_items(exported, make_images()).vectors - expected).max() < 1e-5
    assert open_onnx_encoder(root, fingerprint, "text") is None
    (folder / "graph.onnx.data").write_bytes(b"damaged")
    assert open_onnx_encoder(root, fingerprint, "image") is None
    monkeypatch.setattr(
        "indexmill.tasks.encoding.onnx_encoders.resize_pixels", lambda _, height, width, mode: np.zeros((height, width, 3), "u1")
    )
    ensure_onnx_export(root, process, request)  # type: ignore[arg-type]
    assert process.results[1].min_cosine < 0.9999
    record = load_onnx_export(root, fingerprint, "image")
    assert record is not None
    assert not record.passes
    assert [path.name for path in folder.iterdir()] == ["export.json"]


def test_the_prompt_of_queries_names_the_export_of_texts_only(clip: OpenClipEncoderConfig) -> None:
    """Another prompt needs no other graph of the images."""
    plain, prompted = identify(clip.model_copy(update={"query_prompt": "auto"})), identify(clip)
    assert plain.for_export("image").fingerprint == prompted.for_export("image").fingerprint == plain.fingerprint
    assert plain.for_export("text").fingerprint != prompted.for_export("text").fingerprint
    documents = identify(clip.model_copy(update={"query_prompt": "auto", "document_prompt": "an image: "}))
    assert documents.for_export("image").fingerprint == plain.fingerprint
