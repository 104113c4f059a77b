"""Builds with a small text model that has a prompt for each role: the index is searched as the library's own two methods would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from indexmill.configs.loading import load_config
from indexmill.serve import open_index
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.onnx_exports import load_onnx_export
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify
from tests.conftest import QUICK
from tests.encoding.checkpoints import write_sentence_transformer_folder
from tests.serve.conftest import SENTENCES

PROMPTS = {"query": "search for: ", "document": "a text: "}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and two prompts."""
    folder = write_sentence_transformer_folder(tmp_path_factory.mktemp("models") / "prompted")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS}))
    return folder


def write_pipeline(folder: Path, model: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a table of texts and a pipeline that indexes it."""
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    config = (
        f"name: texts\ndataset:\n  source: jsonl\n  path: {folder / 'texts.jsonl'}\n  text_column: text\n  label_column: label\n"
        "  key_column: key\nsplit: {mode: hash, query_fraction: 0.2}\nencoder:\n  kind: sentence-transformers\n"
        f"  model: {model}\n  precision: float32\nindex: {{factory: Flat}}\nevaluation: {{k: [1, 2]}}\n"
    )
    (folder / "texts.yaml").write_text(config)
    return folder / "texts.yaml"


def test_queries_get_their_prompt_and_items_theirs(server: str, model_folder: Path, tmp_path: Path) -> None:
    """In the store, in searches, in the export that the service uses, in the manifest and in the report."""
    from indexmill.flows.build_index import build_index

    rows = [{"key": f"s{n:02d}", "label": label, "text": text} for n, (label, text) in enumerate(SENTENCES)]
    summary = build_index(str(write_pipeline(tmp_path, model_folder, rows)), str(tmp_path / "root"), QUICK)
    model, query = SentenceTransformer(str(model_folder)), "a boat at sea"
    documents = model.encode_document([row["text"] for row in rows], normalize_embeddings=True)
    scores = documents @ model.encode_query(query, normalize_embeddings=True)
    with open_index(tmp_path / "root", "texts") as index:
        manifest = index.manifest
        results = index.search(texts=[query], k=12).results[0]
    assert [result.key for result in results] == [rows[n]["key"] for n in np.argsort(-scores)]
    assert [result.score for result in results] == pytest.approx(np.sort(scores)[::-1], abs=1e-5)
    assert manifest.prompts == PROMPTS
    root = Root(tmp_path / "root", create=False)
    assert EmbeddingStore(root, manifest.fingerprint).count_missing(Path(summary["path"]) / "items.parquet") == 0
    assert manifest.query_fingerprint not in ("", manifest.fingerprint)
    identity = identify(load_config(str(tmp_path / "texts.yaml")).encoder).for_role("query")
    export = load_onnx_export(root, identity.fingerprint)
    assert export is not None
    assert (export.prompt, export.passes) == (PROMPTS["query"], True)
    report = Path(summary["report"]).read_text()
    assert "search for: ” precedes every query" in report
    assert "Held-out items that stand in for queries are encoded as documents" in report


def test_shorter_vectors_are_the_librarys_and_encode_nothing_again(server: str, model_folder: Path, tmp_path: Path) -> None:
    """encoder.dimensions is `truncate_dim`; a build with other dimensions uses the vectors that the store has."""
    from indexmill.flows.build_index import build_index

    rows = [{"key": f"s{n:02d}", "label": label, "text": text} for n, (label, text) in enumerate(SENTENCES)]
    config, root = str(write_pipeline(tmp_path, model_folder, rows)), str(tmp_path / "root")
    whole = build_index(config, root, QUICK)
    short = build_index(config, root, [*QUICK, "encoder.dimensions=8"])
    assert (whole["encoded"], short["encoded"], short["reused"]) == (12, 0, 12)
    model = SentenceTransformer(str(model_folder), truncate_dim=8)
    documents = model.encode_document([row["text"] for row in rows], normalize_embeddings=True)
    scores = documents @ model.encode_query("a boat at sea", normalize_embeddings=True)
    with open_index(root, "texts") as index:
        manifest = index.manifest
        results = index.search(texts=["a boat at sea"], k=12).results[0]
    assert manifest.dim == 8
    assert [result.score for result in results] == pytest.approx(np.sort(scores)[::-1], abs=1e-5)
    with open_index(root, "texts", whole["snapshot_id"]) as index:
        assert (index.manifest.dim, index.manifest.fingerprint != manifest.fingerprint) == (32, True)
        assert index.manifest.embedding_stores.keys() == manifest.embedding_stores.keys()  # gc keeps the vectors of both
    with pytest.raises(InputError, match="vectors are shorter than this"):
        build_index(config, root, [*QUICK, "encoder.dimensions=33"])


def make_long_texts(count: int, sentences: int, seed: int = 0) -> list[list[str]]:
    """Sentences of random words, for long texts."""
    words = "ship port quiet dawn sail storm boat judge soup onion comet ring sky salt court sea net mast tide".split()  # noqa: SIM905
    random = np.random.default_rng(seed)
    return [[" ".join(random.choice(words, random.integers(6, 20))).capitalize() + "." for _ in range(sentences)] for _ in range(count)]


def test_chunks_are_indexed_and_items_answered(server: str, model_folder: Path, tmp_path: Path) -> None:
    """The results are those of exact search over the library's vectors of the chunks; a changed sentence encodes its chunks only."""
    from indexmill.flows.build_index import build_index

    texts = make_long_texts(12, 60)
    rows = [{"key": f"t{n:02d}", "label": "ab"[n % 2], "text": " ".join(sentences)} for n, sentences in enumerate(texts)]
    config, root = str(write_pipeline(tmp_path, model_folder, rows)), str(tmp_path / "root")
    settings = [*QUICK, "dataset.chunk={tokens: 100, overlap: 20}", "evaluation.k=[1, 2, 5]"]
    summary = build_index(config, root, settings)
    assert (summary["database"] + summary["query"], summary["truncated"]) == (12, 0)
    chunks = pq.read_table(Path(summary["path"]) / "chunks.parquet").to_pylist()
    items = pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()
    assert summary["encoded"] == len({row["content_digest"] for row in chunks}) > 60
    assert {row["item_id"] for row in items} == {row["parent_id"] for row in chunks}
    model, query = SentenceTransformer(str(model_folder)), "a storm at sea"
    scores = model.encode_document([row["text"] for row in chunks], normalize_embeddings=True) @ model.encode_query(
        query, normalize_embeddings=True
    )
    keys = {row["item_id"]: row["key"] for row in items}
    best: dict[str, tuple[float, str]] = {}
    for row, score in zip(chunks, scores.tolist(), strict=True):
        best[keys[row["parent_id"]]] = max(best.get(keys[row["parent_id"]], (-2.0, "")), (score, row["text"]))
    expected = sorted(best, key=lambda key: -best[key][0])
    with open_index(root, "texts") as index:
        results = index.search(texts=[query], k=12).results[0]
        assert [result.key for result in results] == expected
        assert [result.text for result in results] == [best[key][1] for key in expected]
        assert [result.score for result in results] == pytest.approx([best[key][0] for key in expected], abs=1e-5)
        labeled = index.search(texts=[query], k=3, label="a").results[0]
        assert [result.key for result in labeled] == [key for key in expected if int(key[1:]) % 2 == 0][:3]
        assert (index.manifest.items, index.manifest.vectors) == (12, len(chunks))
        similar = index.search(items=[items[0]["item_id"]], k=1).results[0]
        assert similar[0].item_id == items[0]["item_id"]
    texts[3][30] = "Nothing of this was here before."
    rows[3]["text"] = " ".join(texts[3])
    write_pipeline(tmp_path, model_folder, rows)
    again = build_index(config, root, settings)
    assert 1 <= again["encoded"] <= 4
    assert again["index"]["training"] == summary["index"]["training"]


@pytest.mark.slow
def test_the_plan_and_the_report_tell_what_is_cut_and_what_chunks_would_cost(server: str, model_folder: Path, tmp_path: Path) -> None:
    """The plan's numbers are those of the builds that follow; the report names them."""
    from indexmill.flows.build_index import build_index
    from indexmill.flows.plan_index import plan_index

    texts = [*make_long_texts(5, 60), *make_long_texts(7, 3, seed=1)]
    rows = [{"key": f"t{n:02d}", "label": "ab"[n % 2], "text": " ".join(sentences)} for n, sentences in enumerate(texts)]
    config, root = str(write_pipeline(tmp_path, model_folder, rows)), str(tmp_path / "root")
    plan = plan_index(config, root, QUICK)
    estimate = plan["chunk_estimate"]
    assert (plan["chunks"], estimate["texts"], estimate["sampled"], estimate["cut"]) == (None, 12, 12, 5)
    summary = build_index(config, root, QUICK)
    assert (summary["truncated"], summary["chunks"]) == (5, None)
    report = Path(summary["report"]).read_text()
    assert f"the index would hold {estimate['chunks']} vectors instead of 12" in report
    chunked = [*QUICK, f"dataset.chunk={{tokens: {estimate['tokens']}, overlap: {estimate['overlap']}}}"]
    plan = plan_index(config, root, chunked)
    assert (plan["chunks"], plan["chunk_estimate"]) == (estimate["chunks"], None)
    assert plan["to_encode"] == estimate["chunks"] - 7  # the short texts have vectors already
    summary = build_index(config, root, chunked)
    assert (summary["truncated"], summary["chunks"], summary["encoded"]) == (0, estimate["chunks"], plan["to_encode"])
    assert f"The index holds {estimate['chunks']} chunks of 12 items." in Path(summary["report"]).read_text()
