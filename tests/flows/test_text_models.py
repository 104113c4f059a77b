"""Builds with a small text model that has a prompt for each role: the index is searched as the library's own two methods would."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from indexmill.configs.loading import load_config
from indexmill.serve import open_index
from indexmill.serve.http.app import create_app
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.onnx_exports import load_onnx_export
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify
from indexmill.tasks.metrics import latency
from tests.conftest import QUICK, without_onnx_export
from tests.encoding.checkpoints import write_sentence_transformer_folder
from tests.serve.conftest import SENTENCES, RunningService, search

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
    export = load_onnx_export(root, identity.fingerprint, "text")
    assert export is not None
    assert (export.settings.prompt, export.passes) == (PROMPTS["query"], True)
    report = Path(summary["report"]).read_text()
    assert "search for: ” precedes every query" in report
    assert "Held-out items that stand in for queries are encoded as documents" in report


@pytest.mark.slow
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


@dataclass(frozen=True)
class ChunkedBuild:
    """A build of long texts in chunks: its root, its pipeline, its rows, the sentences of each text, and its summary."""

    root: Path
    config: Path
    rows: list[dict[str, Any]]
    texts: list[list[str]]
    summary: dict[str, Any]


CHUNKED = [*QUICK, "dataset.chunk={tokens: 100, overlap: 20}", "evaluation.k=[1, 2, 5]"]
QUERY = "a storm at sea"


@pytest.fixture(scope="module")
def chunked(server: str, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ChunkedBuild:
    """Twelve texts of 60 sentences, each in several chunks."""
    from indexmill.flows.build_index import build_index

    folder, texts = tmp_path_factory.mktemp("chunked"), make_long_texts(12, 60)
    rows = [{"key": f"t{n:02d}", "label": "ab"[n % 2], "text": " ".join(sentences)} for n, sentences in enumerate(texts)]
    config = write_pipeline(folder, model_folder, rows)
    with without_onnx_export():
        return ChunkedBuild(folder / "root", config, rows, texts, build_index(str(config), str(folder / "root"), CHUNKED))


def rank_by_library(build: ChunkedBuild, model_folder: Path) -> tuple[list[str], dict[str, tuple[float, str]]]:
    """Rank the items for QUERY by the library's vectors of the chunks: keys, and the score and text of the best chunk of each."""
    chunks = pq.read_table(Path(build.summary["path"]) / "chunks.parquet").to_pylist()
    model = SentenceTransformer(str(model_folder))
    documents = model.encode_document([row["text"] for row in chunks], normalize_embeddings=True)
    scores = documents @ model.encode_query(QUERY, normalize_embeddings=True)
    best: dict[str, tuple[float, str]] = {}
    for row, score in zip(chunks, scores.tolist(), strict=True):
        best[row["key"]] = max(best.get(row["key"], (-2.0, "")), (score, row["text"]))
    return sorted(best, key=lambda key: -best[key][0]), best


def test_chunks_are_indexed_and_items_answered(chunked: ChunkedBuild, model_folder: Path) -> None:
    """The results are those of exact search over the library's vectors of the chunks, with filters too."""
    summary = chunked.summary
    chunks, items = (pq.read_table(Path(summary["path"]) / f"{name}.parquet").to_pylist() for name in ("chunks", "items"))
    assert (summary["database"] + summary["query"], summary["truncated"]) == (12, 0)
    assert summary["chunks"] == len(chunks)
    assert summary["encoded"] == len({row["content_digest"] for row in chunks}) > 60
    assert {row["item_id"] for row in items} == {row["parent_id"] for row in chunks}
    expected, best = rank_by_library(chunked, model_folder)
    with open_index(chunked.root, "texts") as index:
        results = index.search(texts=[QUERY], k=12).results[0]
        assert [result.key for result in results] == expected
        assert [result.text for result in results] == [best[key][1] for key in expected]
        assert [result.score for result in results] == pytest.approx([best[key][0] for key in expected], abs=1e-5)
        labeled = index.search(texts=[QUERY], k=3, label="a").results[0]
        assert [result.key for result in labeled] == [key for key in expected if int(key[1:]) % 2 == 0][:3]
        assert (index.manifest.items, index.manifest.vectors) == (12, len(chunks))
        similar = index.search(items=[items[0]["item_id"]], k=1).results[0]
        assert similar[0].item_id == items[0]["item_id"]


@pytest.mark.slow
def test_a_changed_sentence_encodes_its_chunks_only(chunked: ChunkedBuild, model_folder: Path, tmp_path: Path) -> None:
    """And `gc` keeps the vectors of all chunks of the live snapshot, so the build before it can be repeated without encoding."""
    from indexmill.flows.build_index import build_index

    root = Path(shutil.copytree(chunked.root, tmp_path / "root"))
    items = pq.read_table(Path(chunked.summary["path"]) / "items.parquet").to_pylist()
    number = min(int(row["key"][1:]) for row in items if row["side"] == "database")
    rows, sentences = [dict(row) for row in chunked.rows], [*chunked.texts[number]]
    sentences[30] = "Nothing of this was here before."
    rows[number]["text"] = " ".join(sentences)
    changed = [f"dataset.path={write_pipeline(tmp_path, model_folder, rows).with_name('texts.jsonl')}"]
    again = build_index(str(chunked.config), str(root), [*CHUNKED, *changed])
    assert 1 <= again["encoded"] <= 4
    storage_root = Root(root)
    assert not [garbage for garbage in collect_garbage(storage_root, days=0, dry_run=True) if garbage.kind == "vectors"]
    storage_root.close()


def test_the_service_answers_with_items_and_their_best_chunks(chunked: ChunkedBuild, model_folder: Path) -> None:
    """As JSON, with ids alone, and as raw arrays; an item has its whole text."""
    expected, best = rank_by_library(chunked, model_folder)
    ids = {row["key"]: str(row["item_id"]) for row in pq.read_table(Path(chunked.summary["path"]) / "items.parquet").to_pylist()}
    service = RunningService(create_app(chunked.root, ["texts"], poll_seconds=0.1))
    try:
        service.wait_until_ready()
        results = search(service.client, "texts", texts=[QUERY], k=5).json()["results"][0]
        assert [(result["key"], result["text"], result["id"]) for result in results] == [
            (key, best[key][1], ids[key]) for key in expected[:5]
        ]
        alone = search(service.client, "texts", texts=[QUERY], k=5, fields=[]).json()["results"][0]
        assert [result["id"] for result in alone] == [ids[key] for key in expected[:5]]
        vector = SentenceTransformer(str(model_folder)).encode_query(QUERY, normalize_embeddings=True)
        headers = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
        raw = service.client.post("/v1/indexes/texts/search?k=5", content=vector.astype("<f4").tobytes(), headers=headers)
        assert np.frombuffer(raw.content[:40], "<i8").tolist() == [int(ids[key]) for key in expected[:5]]
        item = service.client.get(f"/v1/indexes/texts/items/{ids['t03']}").json()
        assert item["text"] == chunked.rows[3]["text"]
        description = service.client.get("/v1/indexes/texts").json()
        assert (description["prompts"], description["items"]) == (PROMPTS, 12)
    finally:
        service.close()


@pytest.mark.slow
def test_a_study_compares_indexes_of_chunks_by_items(chunked: ChunkedBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact indexes find the same items as brute force; shorter vectors are another encoder of the study."""
    from indexmill.flows.study_index import study_index

    monkeypatch.setattr(latency, "MAX_SECONDS", 0.05)
    root = Path(shutil.copytree(chunked.root, tmp_path / "root"))
    settings = [*CHUNKED, "study.indexes=[{factory: Flat}, {factory: 'IVF4,Flat', nprobe: [1, 4]}]", "study.dimensions=[8, 32]"]
    rows = study_index(str(chunked.config), str(root), settings)["rows"]
    assert [(row["dim"], row["index"]) for row in rows] == [
        (dim, index) for dim in (8, 32) for index in ("NumPy", "Flat", "IVF4,Flat", "IVF4,Flat")
    ]
    assert all(row["encoded"] == 0 for row in rows)
    exact = [row for row in rows if row["index"] in ("NumPy", "Flat") or row["nprobe"] == 4]
    assert {row["ann_recall_at_10"] for row in exact} == {1.0}
    assert len({row["map"] for row in exact if row["dim"] == 32}) == 1


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
