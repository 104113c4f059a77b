"""A whole build: what it publishes, and what it makes of unusual inputs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest

from indexmill.flows.build_summary import BuildSummary
from indexmill.storage.errors import InputError
from indexmill.storage.metrics_file import MetricsFile
from tests.conftest import Build, FinishedBuild
from tests.flows.built import count_indexed_items, list_run_stages, open_snapshots, read_manifest

STAGES = ["ingest", "validate", "split", "encode", "train", "shard", "tune", "evaluate", "publish"]
METRICS_SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "metrics.schema.json").read_text())


def test_a_build_publishes_every_item_once_with_its_metrics(finished_build: FinishedBuild, digits: Path) -> None:
    """120 digits: all served, metrics measured on the held-out fifth, files as the manifest lists them."""
    root, summary = finished_build.root, finished_build.summary
    assert list(summary["stages"]) == STAGES
    assert list_run_stages(summary) == set(STAGES)
    assert summary["published"]
    assert summary["items"] == summary["database"] + summary["query"] == summary["encoded"] == 120
    items = pq.read_table(Path(summary["path"]) / "items.parquet").to_pydict()
    assert count_indexed_items(root) == dict.fromkeys(items["item_id"], 1)
    assert sorted(items["key"]) == sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
    assert {key.split("/")[0] for key in items["key"]} == set(items["label"])
    manifest = read_manifest(root)
    assert [(shard.side, shard.index.path) for shard in manifest.shards] == [
        ("database", "shard-00000.faiss"),
        ("database", "shard-00001.faiss"),
        ("query", "shard-00002.faiss"),
    ]
    assert sum(shard.count for shard in manifest.shards if shard.side == "database") == summary["database"]
    assert summary["metrics"]["ann_recall_at_10"] == 1
    assert 0.6 < summary["metrics"]["precision_at_1"] <= 1
    metrics_file = json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text())
    assert metrics_file["metrics"] == summary["metrics"] == manifest.metrics
    jsonschema.validate(metrics_file, METRICS_SCHEMA)
    open_snapshots(root).verify(manifest)


def test_the_published_schema_of_metrics_json_is_the_models_own() -> None:
    """docs/metrics.schema.json is generated from MetricsFile."""
    assert METRICS_SCHEMA["$schema"].startswith("https://json-schema.org/")
    assert {key: value for key, value in METRICS_SCHEMA.items() if key != "$schema"} == MetricsFile.model_json_schema()


def test_metrics_are_those_of_brute_force_over_the_stored_vectors(finished_build: FinishedBuild) -> None:
    """P@5 and R@5 averaged over queries, computed again from Parquet alone."""
    summary = finished_build.summary
    items = pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()
    parts = [pq.read_table(path).to_pylist() for path in (finished_build.root / "embeddings").rglob("part-*.parquet")]
    vectors = {row["content_digest"]: np.array(row["embedding"], np.float32) for part in parts for row in part}
    database = [item for item in items if item["side"] == "database"]
    precision, recall = [], []
    for query in (item for item in items if item["side"] == "query"):
        scores = [float(vectors[query["content_digest"]] @ vectors[item["content_digest"]]) for item in database]
        top_5 = sorted(range(len(database)), key=lambda row: (-scores[row], database[row]["item_id"]))[:5]
        hits = sum(database[row]["label"] == query["label"] for row in top_5)
        precision.append(hits / 5)
        recall.append(hits / sum(item["label"] == query["label"] for item in database))
    assert summary["metrics"]["precision_at_5"] == pytest.approx(np.mean(precision))
    assert summary["metrics"]["recall_at_5"] == pytest.approx(np.mean(recall))


@pytest.mark.slow
def test_texts_are_built_like_images(build: Build, tmp_path: Path) -> None:
    """A sample of the standard library through MiniLM and an IVF index: relevance far above chance, and the query side served."""
    settings = ["dataset.limit=200", "encoder.precision=float32", "encoder.batch_size=16", "index.factory=IVF4,Flat", "index.nprobe=4"]
    summary = build(tmp_path, *settings, "index.shards=1", config="demo-text")
    assert summary["items"] == 200
    assert summary["metrics"]["ann_recall_at_10"] > 0.999
    assert summary["metrics"]["precision_at_1"] > 0.3
    assert set(BuildSummary.__dataclass_fields__) == set(summary)


def test_rejected_images_are_listed_with_their_reason_and_do_not_end_the_build(quick_build: Build, pictures: Path) -> None:
    """A page named .png and an empty file among 120 good ones."""
    (pictures / "0" / "page.png").write_text("<html></html>")
    (pictures / "1" / "empty.png").write_bytes(b"")
    summary = quick_build(pictures)
    assert (summary["items"], summary["rejected"], summary["database"] + summary["query"]) == (122, 2, 120)
    rejects = pq.read_table(Path(summary["path"]) / "rejects.parquet").to_pylist()
    assert {(row["key"], row["reason"]) for row in rejects} == {("0/page.png", "not_an_image"), ("1/empty.png", "empty")}
    assert "not_an_image" in Path(summary["report"]).read_text()


def test_too_many_rejects_stop_the_build_with_their_counts(quick_build: Build, pictures: Path) -> None:
    """Past validate.max_reject_fraction something is wrong with the source."""
    for path in sorted(pictures.rglob("*.png"))[:30]:
        path.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"30 of 120 \(25.0%\): not_an_image 30"):
        quick_build(pictures)


@pytest.mark.slow
def test_a_database_only_index_leaves_the_queries_out(next_build: Build, digits: Path, tmp_path: Path) -> None:
    """publish.serve: database."""
    summary = next_build(digits, "publish.serve=database")
    assert {shard.side for shard in read_manifest(tmp_path / "root").shards} == {"database"}
    assert sum(count_indexed_items(tmp_path / "root").values()) == summary["database"]


@pytest.mark.slow
def test_unlabeled_images_are_indexed_and_measured_without_relevance(next_build: Build, digits: Path) -> None:
    """Agreement with exact search needs no labels."""
    summary = next_build(digits, "dataset.labels=none")
    kinds = {f"ann_{kind}_at_{k}" for kind in ("recall", "distance_recall") for k in (1, 5, 10)}
    assert set(summary["metrics"]) == kinds | {"ann_distance_ratio_at_10", "ann_share_below_half_at_10"}
    assert "Without labels or scored pairs" in Path(summary["report"]).read_text()


@pytest.mark.slow
def test_texts_that_no_label_judges_are_not_ranked_deeply(next_build: Build, digits: Path) -> None:
    """Without labels a ranking ends at the largest k; with labels, or where a TREC run is wanted, at evaluation.depth."""

    def read_depth(*settings: str) -> float:
        report = Path(next_build(digits, "evaluation.depth=40", *settings)["path"]) / "report" / "metrics.json"
        return float(json.loads(report.read_text())["counts"]["depth"])

    assert read_depth() == 40
    assert read_depth("dataset.labels=none") == 10
    assert read_depth("dataset.labels=none", "evaluation.trec=true") == 40


@pytest.mark.slow
def test_markup_in_names_stays_text_in_the_report(quick_build: Build, pictures: Path) -> None:
    """A folder's name is data: it is shown, never run."""
    (pictures / "3").rename(pictures / "<script>alert(1)<")
    (pictures / "4").rename(pictures / '$\\frac$ & "quoted"')
    report = Path(quick_build(pictures)["report"]).read_text()
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert(1)&lt;" in report
    assert "http://" not in report.replace("http://www.w3.org/", "").replace("http://purl.org/", "").replace(
        "http://creativecommons.org/", ""
    )
