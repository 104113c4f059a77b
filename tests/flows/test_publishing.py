"""What a build publishes or refuses, keeps of earlier builds, and reports about the change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect.artifacts import Artifact

from indexmill.flows.cli.render_snapshots import render_sparkline
from indexmill.flows.snapshots import read_history
from indexmill.storage.errors import PublishRefused
from indexmill.storage.metrics_file import read_metrics_history
from indexmill.storage.root import Root
from tests.conftest import Build, FinishedBuild
from tests.flows.built import open_snapshots
from tests.flows.test_build import METRICS_SCHEMA


@pytest.mark.slow
def test_a_refused_build_leaves_the_live_snapshot_and_names_the_rule(
    next_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path
) -> None:
    """The gate names the metric, its value and its bound; the refused report can be read; a reason publishes it."""
    live_id = finished_build.summary["snapshot_id"]
    shutil.rmtree(pictures / "3")
    strict = "publish.gate.minimum={precision_at_1: 1.1}"
    with pytest.raises(PublishRefused, match=r"precision_at_1 is .* must be at least 1.1"):
        next_build(pictures, strict)
    snapshots = open_snapshots(tmp_path / "root")
    assert snapshots.get_live_id() == live_id
    (refused_id,) = set(snapshots.list_ids()) - {live_id}
    refused = snapshots.read_manifest(refused_id)
    assert (refused.verdict, refused.force_reason, len(refused.failed_rules)) == ("refused", None, 1)
    snapshots.verify(refused)
    assert "refused" in (snapshots.get_path(refused_id) / "report" / "report.html").read_text()
    assert [file.verdict for file in read_metrics_history(Root(tmp_path / "root"), "demo-images")] == ["published", "refused"]
    forced = next_build(pictures, strict, force="the owner wants fewer classes")
    assert (forced["snapshot_id"], snapshots.get_live_id()) == (refused_id, refused_id)
    manifest = snapshots.read_manifest()
    assert (manifest.verdict, manifest.force_reason) == ("published", "the owner wants fewer classes")
    assert manifest.failed_rules == refused.failed_rules
    assert manifest.parent == live_id


@pytest.mark.slow
def test_a_refused_snapshot_does_not_displace_a_published_one(
    next_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path
) -> None:
    """With room for one, the live one stays beside the newest refused one, however many were refused."""
    live_id = finished_build.summary["snapshot_id"]
    for label in ("9", "8"):
        shutil.rmtree(pictures / label)
        with pytest.raises(PublishRefused):
            next_build(pictures, "publish.keep=1", "publish.gate.minimum_items=120")
    snapshots = open_snapshots(tmp_path / "root")
    assert snapshots.list_ids()[0] == snapshots.get_live_id() == live_id
    assert [snapshots.read_manifest(snapshot_id).verdict for snapshot_id in snapshots.list_ids()] == ["published", "refused"]
    assert len(read_metrics_history(Root(tmp_path / "root"), "demo-images")) == 3


@pytest.mark.slow
def test_metrics_json_compares_with_the_live_snapshot(
    next_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path
) -> None:
    """A build with a class less reports what changed since the live one; a TREC run is written where it is wanted."""
    shutil.rmtree(pictures / "3")
    first = finished_build.summary
    settings = ["evaluation.encode_latency_queries=3", "evaluation.projection_seconds=0.5", "evaluation.trec=true"]
    second = next_build(pictures, *settings)
    folders = [Path(summary["path"]) / "report" for summary in (first, second)]
    assert {path.name for path in folders[1].iterdir()} - {path.name for path in folders[0].iterdir()} == {"run.trec", "qrels.trec"}
    baseline, candidate = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    for metrics_file in (baseline, candidate):
        jsonschema.validate(metrics_file, METRICS_SCHEMA)
    assert baseline["diff"] is None
    assert candidate["diff"]["snapshot_id"] == first["snapshot_id"]
    assert candidate["diff"]["items"] == {"added": 0, "removed": 12, "changed": 0, "relabeled": 0, "kept": 108}
    assert candidate["diff"]["metrics"]["map"]["queries"] == candidate["counts"]["queries_judged"]
    assert candidate["timings"]["encode_query_p50_ms"] > candidate["timings"]["single_query_p50_ms"] > 0
    queries = pq.read_table(folders[1] / "per_query.parquet").to_pydict()
    assert np.mean(queries["map"]) == pytest.approx(candidate["metrics"]["map"])
    assert set(pq.read_table(folders[1] / "per_label.parquet")["label"].to_pylist()) <= set("012456789")


def test_prefect_has_the_latest_build_under_keys_of_the_index(next_build: Build, pictures: Path) -> None:
    """A table of metrics, the summary and a link, each with the change since the build before."""
    shutil.rmtree(pictures / "3")
    summary = next_build(pictures)
    keys = ("build-index-demo-images-metrics", "build-index-demo-images", "build-index-demo-images-report")
    table, text, link = (Artifact.get(key) for key in keys)
    assert table
    assert text
    assert link
    rows = {row["metric"]: row for row in json.loads(str(table.data))}
    assert rows["map"]["value"] == pytest.approx(summary["metrics"]["map"])
    assert rows["map"]["change"] is not None
    assert text.data == (Path(summary["path"]) / "report" / "report.md").read_text()
    assert Path(summary["report"]).as_uri() in str(link.data)


@pytest.mark.slow
def test_retention_keeps_the_configured_number_of_snapshots_and_the_history_of_all(
    next_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path
) -> None:
    """keep: 1 leaves the newest alone, whole; the catalog and `indexmill history` still list every build."""
    summaries = [finished_build.summary]
    for label in ("9", "8"):
        shutil.rmtree(pictures / label)
        summaries.append(next_build(pictures, "publish.keep=1"))
    snapshots = open_snapshots(tmp_path / "root")
    assert len(snapshots.list_ids()) == 1
    snapshots.verify(snapshots.read_manifest())
    history = read_history(Root(tmp_path / "root"), "demo-images")
    assert [file.snapshot_id for file in history] == [summary["snapshot_id"] for summary in summaries]
    assert [file.metrics["map"] for file in history] == [summary["metrics"]["map"] for summary in summaries]
    with duckdb.connect(str(tmp_path / "root" / "catalog.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT snapshot_id, value, low <= value AND value <= high FROM evaluations WHERE metric = 'map'"
        ).fetchall()
    assert sorted(rows) == [(summary["snapshot_id"], summary["metrics"]["map"], True) for summary in summaries]


def test_sparklines_go_from_the_lowest_value_to_the_highest() -> None:
    """A gap where a build lacks the metric; equal values are drawn in the middle."""
    assert render_sparkline([0.0, None, 0.5, 1.0]) == "▁ ▅█"
    assert render_sparkline([0.5, 0.5]) == "▅▅"
