"""The whole build: what it makes, what it remembers, what it repairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import faiss
import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect.artifacts import Artifact

from indexmill.configs.encoders import EncoderConfig
from indexmill.flows.build_summary import BuildSummary
from indexmill.flows.cli.render_snapshots import read_history, render_sparkline
from indexmill.storage.errors import InputError, PublishRefused
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile, read_metrics_history
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.encoding.process import EncoderProcess
from tests.conftest import QUICK, Build

STAGES = ["ingest", "validate", "split", "encode", "train", "shard", "tune", "evaluate", "publish"]


def manifest(root: Path) -> Manifest:
    return Snapshots(Root(root), "demo-images").read_manifest()


def done(summary: dict[str, Any]) -> set[str]:
    """The stages that were not remembered."""
    return {name for name, run in summary["stages"].items() if not run["cached"]}


def indexed(root: Path) -> dict[int, int]:
    """Item id -> number of times that the published FAISS files hold it."""
    snapshots = Snapshots(Root(root), "demo-images")
    found: dict[int, int] = {}
    for shard in snapshots.read_manifest().shards:
        index = faiss.read_index(str(snapshots.get_path(snapshots.read_manifest().snapshot_id) / shard.index.path))
        for item in faiss.vector_to_array(index.id_map).tolist():
            found[item] = found.get(item, 0) + 1
    return found


def test_a_build_publishes_every_item_once_with_its_figures(build: Build, pictures: Path, tmp_path: Path) -> None:
    """120 digits: all served, the figures measured on the held-out fifth, the files as the manifest says."""
    summary = build(pictures, "index.shards=3")
    root = tmp_path / "root"
    assert list(summary["stages"]) == STAGES
    assert summary["published"]
    assert summary["items"] == summary["database"] + summary["query"] == summary["encoded"] == 120
    items = pq.read_table(Path(summary["path"]) / "items.parquet").to_pydict()
    assert indexed(root) == dict.fromkeys(items["item_id"], 1)
    assert sorted(items["key"]) == sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    assert {key.split("/")[0] for key in items["key"]} == set(items["label"])
    live = manifest(root)
    assert [(shard.side, shard.index.path) for shard in live.shards] == [
        ("database", "shard-00000.faiss"),
        ("database", "shard-00001.faiss"),
        ("database", "shard-00002.faiss"),
        ("query", "shard-00003.faiss"),
    ]
    assert sum(shard.count for shard in live.shards if shard.side == "database") == summary["database"]
    assert summary["metrics"]["ann_recall_at_10"] == 1
    assert 0.6 < summary["metrics"]["precision_at_1"] <= 1
    figures = json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text())
    assert figures["metrics"] == summary["metrics"] == live.metrics
    Snapshots(Root(root), "demo-images").verify(live)


def test_figures_are_those_of_brute_force_over_the_stored_vectors(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """P@5 and R@5 by label, worked out anew from Parquet alone."""
    summary = quick_build(pictures)
    items = pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()
    parts = [pq.read_table(path).to_pylist() for path in (tmp_path / "root" / "embeddings").rglob("part-*.parquet")]
    vectors = {row["content_digest"]: np.array(row["embedding"], np.float32) for part in parts for row in part}
    database = [item for item in items if item["side"] == "database"]
    precision, recall = [], []
    for query in (item for item in items if item["side"] == "query"):
        scores = [float(vectors[query["content_digest"]] @ vectors[item["content_digest"]]) for item in database]
        best = sorted(range(len(database)), key=lambda row: (-scores[row], database[row]["item_id"]))[:5]
        hits = sum(database[row]["label"] == query["label"] for row in best)
        precision.append(hits / 5)
        recall.append(hits / sum(item["label"] == query["label"] for item in database))
    assert summary["metrics"]["precision_at_5"] == pytest.approx(np.mean(precision))
    assert summary["metrics"]["recall_at_5"] == pytest.approx(np.mean(recall))


def test_the_second_run_does_nothing_and_says_so(build: Build, pictures: Path) -> None:
    """Every stage is remembered, and the summary is the same but for what was done."""
    first, second = build(pictures), build(pictures)
    assert done(first) == set(STAGES)
    assert done(second) == set()
    assert (second["encoded"], second["reused"]) == (0, 120)
    same = ("snapshot_id", "path", "metrics", "items", "database", "query", "published")
    assert [first[key] for key in same] == [second[key] for key in same]


def test_a_root_that_was_moved_goes_on_where_it_was(build: Build, pictures: Path, tmp_path: Path) -> None:
    """No record holds the root's place."""
    build(pictures)
    shutil.move(tmp_path / "root", tmp_path / "elsewhere")
    assert done(build(pictures, root=tmp_path / "elsewhere")) == set()


def test_renamed_and_copied_pictures_are_not_encoded_again(build: Build, pictures: Path, tmp_path: Path) -> None:
    """The store goes by content: another folder with other names costs no encoding."""
    build(pictures)
    for label in list(pictures.iterdir()):
        label.rename(pictures / f"digit-{label.name}")
    summary = build(pictures)
    assert (summary["encoded"], summary["reused"]) == (0, 120)


def test_new_pictures_are_encoded_alone_and_the_index_is_that_of_a_build_from_scratch(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Same ids, same sides, same figures, whether the items came on one night or two."""
    late = sorted(pictures.rglob("*.png"))[::12]
    kept = tmp_path / "late"
    for path in late:
        (kept / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(kept / path.parent.name / path.name)
    before = build(pictures)
    sides = dict(zip(*pq.read_table(Path(before["path"]) / "items.parquet").select(["item_id", "side"]).to_pydict().values(), strict=True))
    shutil.copytree(kept, pictures, dirs_exist_ok=True)
    nightly, scratch = build(pictures), build(pictures, root=tmp_path / "scratch")
    assert nightly["encoded"] == len(late)
    tables = [pq.read_table(Path(summary["path"]) / "items.parquet") for summary in (nightly, scratch)]
    assert tables[0].equals(tables[1])
    assert nightly["metrics"] == pytest.approx(scratch["metrics"], abs=1e-6)
    now = dict(zip(tables[0]["item_id"].to_pylist(), tables[0]["side"].to_pylist(), strict=True))
    assert {item: now[item] for item in sides} == sides
    assert manifest(tmp_path / "root").parent == before["snapshot_id"]


ARTEFACTS = {
    "catalog.duckdb": set(),
    "datasets/*/ingested/*/items.parquet": {"ingest"},
    "datasets/*/validated/*/rejects.parquet": {"validate"},
    "datasets/*/split/*/items.parquet": {"split"},
    "embeddings/*/part-00001.parquet": {"encode"},
    "indexes/*/trained/*.faiss": {"train"},
    "indexes/*/shards/*.faiss": {"shard"},
    "indexes/*/evaluations/*/per_query.parquet": {"evaluate"},
    "indexes/*/evaluations/ground_truth-*.npz": {"evaluate"},
    "indexes/*/current": {"publish"},
    "indexes/*/snapshots/*/manifest.json": {"publish"},
    "indexes/*/snapshots/*/shard-00000.faiss": {"publish"},
    "indexes/*/snapshots/*/report/report.html": {"publish"},
    "cache/validate-*": {"validate"},
}


@pytest.fixture(scope="module")
def whole(server: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished build with two embedding parts and two shards, to be copied and damaged."""
    from indexmill.flows.build_index import build_index

    root = tmp_path_factory.mktemp("whole") / "root"
    return root, build_index("demo-images", str(root), settings(digits))


def settings(digits: Path) -> list[str]:
    return [f"dataset.path={digits}", "encoder.precision=float32", *QUICK, "encoder.chunk_rows=70", "index.shards=2"]


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_a_deleted_artefact_is_made_again_and_nothing_else_is(
    artefact: str, whole: tuple[Path, dict[str, Any]], digits: Path, build: Build, tmp_path: Path
) -> None:
    """Whatever is gone comes back by its own stage; the figures stay."""
    root = tmp_path / "root"
    shutil.copytree(whole[0], root)
    gone = sorted(root.glob(artefact))[0]
    gone.unlink()
    summary = build(digits, *settings(digits)[1:])
    expected = ARTEFACTS[artefact]
    # The two shards on the database side are the stage's; the query side's is made when a snapshot is assembled.
    assert done(summary) == expected or (artefact.startswith("indexes/*/shards") and done(summary) <= expected)
    assert summary["metrics"] == whole[1]["metrics"]
    assert summary["snapshot_id"] == whole[1]["snapshot_id"]
    assert sorted(root.glob(artefact)) or artefact.startswith("indexes/*/shards")
    if artefact.startswith("embeddings"):
        assert (summary["encoded"], summary["reused"]) == (50, 70)
    if artefact.startswith(("datasets/*/split", "indexes/*/current", "cache")):  # one of each kind: after it all is remembered
        assert done(build(digits, *settings(digits)[1:])) == set()


def test_a_damaged_index_of_the_right_size_is_found_and_made_again(
    whole: tuple[Path, dict[str, Any]], digits: Path, build: Build, tmp_path: Path
) -> None:
    """FAISS would answer wrongly in silence; the digest of the live snapshot's files is checked at every build."""
    root = tmp_path / "root"
    shutil.copytree(whole[0], root)
    path = next(root.glob("indexes/*/snapshots/*/shard-00000.faiss"))
    sound = path.read_bytes()
    for damaged in [path, *root.glob("indexes/*/shards/*.faiss")]:
        if damaged.read_bytes() == sound:
            damaged.write_bytes(sound[:-100] + bytes(50) + sound[-50:])
    summary = build(digits, *settings(digits)[1:])
    assert done(summary) >= {"shard", "publish"}
    assert path.read_bytes() == sound
    assert done(build(digits, *settings(digits)[1:])) == set()


def test_a_stage_is_redone_with_what_follows(build: Build, pictures: Path) -> None:
    """From `tune` on, though nothing has changed; the snapshot is the same. A name that is no stage is refused."""
    first = build(pictures)
    again = build(pictures, refresh="tune")
    assert done(again) == {"tune", "evaluate", "publish"}
    assert again["snapshot_id"] == first["snapshot_id"]
    with pytest.raises(InputError, match="there is no such stage"):
        build(pictures, refresh="tuning")


def test_a_refused_build_leaves_the_live_snapshot_and_says_why(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """The gate names the measure, its value and its bound; the refused report is there to be looked at."""
    live = quick_build(pictures)["snapshot_id"]
    shutil.rmtree(pictures / "3")
    strict = "publish.gate.minimum={precision_at_1: 1.1}"
    with pytest.raises(PublishRefused, match=r"precision_at_1 is .* must be at least 1.1"):
        quick_build(pictures, strict)
    snapshots = Snapshots(Root(tmp_path / "root"), "demo-images")
    assert snapshots.get_live_id() == live
    (refused,) = set(snapshots.list_ids()) - {live}
    kept = snapshots.read_manifest(refused)
    assert (kept.verdict, kept.force_reason, len(kept.failed_rules)) == ("refused", None, 1)
    snapshots.verify(kept)
    assert "refused" in (snapshots.get_path(refused) / "report" / "report.html").read_text()
    assert [one.verdict for one in read_metrics_history(Root(tmp_path / "root"), "demo-images")] == ["published", "refused"]
    force_reason = quick_build(pictures, strict, force="the owner wants fewer classes")
    assert (force_reason["snapshot_id"], snapshots.get_live_id()) == (refused, refused)
    assert (snapshots.read_manifest().verdict, snapshots.read_manifest().force_reason) == ("published", "the owner wants fewer classes")
    assert snapshots.read_manifest().failed_rules == kept.failed_rules
    assert snapshots.read_manifest().parent == live


def test_a_refused_snapshot_takes_no_published_ones_place(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """With room for one, the live one stays beside the newest refused one, however many were refused."""
    live = quick_build(pictures, "publish.keep=1")["snapshot_id"]
    for label in ("9", "8"):
        shutil.rmtree(pictures / label)
        with pytest.raises(PublishRefused):
            quick_build(pictures, "publish.keep=1", "publish.gate.minimum_items=120")
    snapshots = Snapshots(Root(tmp_path / "root"), "demo-images")
    assert snapshots.list_ids()[0] == snapshots.get_live_id() == live
    assert [snapshots.read_manifest(one).verdict for one in snapshots.list_ids()] == ["published", "refused"]
    assert len(read_metrics_history(Root(tmp_path / "root"), "demo-images")) == 3


def test_metrics_json_follows_its_schema_and_compares_with_the_live_snapshot(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """docs/metrics.schema.json is the model's own; a second build with a class less tells what changed since the first."""
    schema = json.loads((Path(__file__).parents[2] / "docs" / "metrics.schema.json").read_text())
    assert schema.pop("$schema").startswith("https://json-schema.org/")
    assert schema == MetricsFile.model_json_schema()
    first = quick_build(pictures, "evaluation.trec=true")
    shutil.rmtree(pictures / "3")
    second = quick_build(pictures, "evaluation.encode_latency_queries=3", "evaluation.projection_seconds=0.5")
    folders = [Path(summary["path"]) / "report" for summary in (first, second)]
    assert {path.name for path in folders[0].iterdir()} - {path.name for path in folders[1].iterdir()} == {"run.trec", "qrels.trec"}
    told = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    for one in told:
        jsonschema.validate(one, schema)
    assert told[0]["diff"] is None
    assert told[1]["diff"]["snapshot_id"] == first["snapshot_id"]
    assert told[1]["diff"]["items"] == {"added": 0, "removed": 12, "changed": 0, "relabelled": 0, "kept": 108}
    assert told[1]["diff"]["metrics"]["map"]["queries"] == told[1]["counts"]["queries_judged"]
    assert told[1]["timings"]["encode_query_p50_ms"] > told[1]["timings"]["single_query_p50_ms"] > 0
    queries = pq.read_table(folders[1] / "per_query.parquet").to_pydict()
    assert np.mean(queries["map"]) == pytest.approx(told[1]["metrics"]["map"])
    assert set(pq.read_table(folders[1] / "per_label.parquet")["label"].to_pylist()) <= set("012456789")


def test_encoding_a_query_is_timed_once_for_an_encoder_on_a_device(quick_build: Build, pictures: Path) -> None:
    """The next night tells the same figures to the last digit, without loading a model; more queries than were timed are timed anew."""

    def times(*settings: str) -> dict[str, float]:
        summary = quick_build(pictures, "evaluation.projection_seconds=0", *settings, refresh="evaluate")
        return {name: value for name, value in summary["timings"].items() if name.startswith("encode_query")}

    first = times("evaluation.encode_latency_queries=3")
    assert first["encode_query_p50_ms"] > 0
    assert times("evaluation.encode_latency_queries=2") == first
    assert times("evaluation.encode_latency_queries=4") != first


def test_the_encoder_is_made_ready_when_the_source_has_changed_and_only_then(
    quick_build: Build, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first build does not know, an unchanged night needs none, a picture less might."""
    asked: list[str] = []
    preload = EncoderProcess.preload

    def told(self: EncoderProcess, config: EncoderConfig) -> None:
        asked.append(config.kind)
        preload(self, config)

    monkeypatch.setattr(EncoderProcess, "preload", told)
    quick_build(pictures)
    quick_build(pictures)
    assert asked == []
    next(pictures.rglob("*.png")).unlink()
    quick_build(pictures)
    assert asked == ["efficientnet-lite"]


def test_texts_that_nothing_judges_are_not_searched_deeply(quick_build: Build, digits: Path) -> None:
    """Without labels a ranking ends at the largest cut-off; with them, or where a run is asked for, at evaluation.depth."""

    def depth(*settings: str) -> float:
        report = Path(quick_build(digits, "evaluation.depth=40", *settings)["path"]) / "report" / "metrics.json"
        return float(json.loads(report.read_text())["counts"]["depth"])

    assert depth() == 40
    assert depth("dataset.labels=none") == 10
    assert depth("dataset.labels=none", "evaluation.trec=true") == 40


def test_the_latest_build_can_be_asked_of_prefect_by_key(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """A table of measures, the summary and a link, under names made of the index's; a later build takes their place."""
    quick_build(pictures, "name=asked")
    shutil.rmtree(pictures / "3")
    summary = quick_build(pictures, "name=asked")
    table, text, link = (Artifact.get(key) for key in ("build-index-asked-figures", "build-index-asked", "build-index-asked-report"))
    assert table
    assert text
    assert link
    rows = {row["measure"]: row for row in json.loads(str(table.data))}
    assert rows["map"]["value"] == pytest.approx(summary["metrics"]["map"])
    assert rows["map"]["change"] is not None
    assert text.data == (Path(summary["path"]) / "report" / "report.md").read_text()
    assert Path(summary["report"]).as_uri() in str(link.data)


def test_history_outlives_snapshots(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """Three builds with room for one: the catalog and `indexmill history` still tell of all three."""
    built = []
    for label in ("9", "8", "7"):
        shutil.rmtree(pictures / label)
        built.append(quick_build(pictures, "publish.keep=1"))
    history = read_history(str(tmp_path / "root"), "demo-images")
    assert [one.snapshot_id for one in history] == [summary["snapshot_id"] for summary in built]
    assert [one.metrics["map"] for one in history] == [summary["metrics"]["map"] for summary in built]
    with duckdb.connect(str(tmp_path / "root" / "catalog.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT snapshot_id, value, low <= value AND value <= high FROM evaluations WHERE metric = 'map'"
        ).fetchall()
    assert sorted(rows) == [(summary["snapshot_id"], summary["metrics"]["map"], True) for summary in built]


def test_retention_keeps_the_asked_number_of_snapshots(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """keep: 1 leaves the newest alone, and every file that is left verifies."""
    for label in ("9", "8", "7"):
        shutil.rmtree(pictures / label)
        quick_build(pictures, "publish.keep=1")
    snapshots = Snapshots(Root(tmp_path / "root"), "demo-images")
    assert len(snapshots.list_ids()) == 1
    snapshots.verify(snapshots.read_manifest())


def test_a_database_only_index_leaves_the_queries_out(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """publish.serve: database."""
    summary = quick_build(pictures, "publish.serve=database")
    assert {shard.side for shard in manifest(tmp_path / "root").shards} == {"database"}
    assert sum(indexed(tmp_path / "root").values()) == summary["database"]


def test_rejected_pictures_are_kept_with_their_reason_and_do_not_end_the_build(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """A page called .png and an empty file among 120 good ones."""
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


def test_unlabelled_pictures_are_indexed_and_measured_without_relevance(quick_build: Build, pictures: Path) -> None:
    """Agreement with exact search needs no labels."""
    summary = quick_build(pictures, "dataset.labels=none")
    kinds = {f"ann_{kind}_at_{k}" for kind in ("recall", "distance_recall") for k in (1, 5, 10)}
    assert set(summary["metrics"]) == kinds | {"ann_distance_ratio_at_10", "ann_share_below_half_at_10"}
    assert "no labels" in Path(summary["report"]).read_text()


def test_markup_in_names_does_no_harm_in_the_report(quick_build: Build, pictures: Path) -> None:
    """A folder's name is data: it is shown, never run."""
    (pictures / "3").rename(pictures / "<script>alert(1)<")
    (pictures / "4").rename(pictures / '$\\frac$ & "quoted"')
    report = Path(quick_build(pictures)["report"]).read_text()
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert(1)&lt;" in report
    assert "http://" not in report.replace("http://www.w3.org/", "").replace("http://purl.org/", "").replace(
        "http://creativecommons.org/", ""
    )


def test_texts_are_built_like_pictures(build: Build, tmp_path: Path) -> None:
    """A random sample of the standard library through MiniLM and an IVF: relevance far above chance, and the query side served."""
    summary = build(tmp_path, "dataset.limit=300", "index.factory=IVF8,Flat", "index.nprobe=8", "index.shards=1", config="demo-text")
    assert summary["items"] == 300
    assert summary["metrics"]["ann_recall_at_10"] > 0.999
    assert summary["metrics"]["precision_at_1"] > 0.3
    assert set(BuildSummary.__dataclass_fields__) == set(summary)


def test_the_same_build_elsewhere_gives_the_same_bytes(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Same seed, threads and inputs: byte-identical shards."""
    digests = [
        [shard.index.sha256 for shard in manifest(root).shards]
        for root in (tmp_path / "one", tmp_path / "two")
        if build(pictures, "index.factory=IVF4,Flat", root=root)
    ]
    assert digests[0] == digests[1]


def test_any_path_will_do_for_the_root_and_the_pictures(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Quotes, blanks, brackets and stars are names, not SQL and not patterns."""
    odd = tmp_path / 'it\'s [a] "b" * c'
    shutil.move(pictures, odd / "pic'tures [1]")
    summary = build(odd / "pic'tures [1]", root=odd / "ro'ot *")
    assert summary["published"]
    assert summary["items"] == 120
    assert done(build(odd / "pic'tures [1]", root=odd / "ro'ot *")) == set()


def test_a_file_that_could_not_be_read_is_a_reject_and_is_tried_again_every_night(build: Build, pictures: Path, tmp_path: Path) -> None:
    """A link that leads nowhere is counted, not lost; once it leads to a picture it is an item, whose content needs no encoding."""
    target = tmp_path / "target.png"
    (pictures / "0" / "link.png").symlink_to(target)
    first = build(pictures)
    assert (first["items"], first["rejected"]) == (121, 1)
    assert done(build(pictures)) == {"ingest", "validate"}
    target.write_bytes(next((pictures / "1").iterdir()).read_bytes())
    third = build(pictures)
    assert (third["items"], third["rejected"], third["encoded"]) == (121, 0, 0)


def test_bars_go_from_the_lowest_to_the_highest() -> None:
    """A gap where a build had no such figure; equal figures stand in the middle."""
    assert render_sparkline([0.0, None, 0.5, 1.0]) == "▁ ▅█"
    assert render_sparkline([0.5, 0.5]) == "▅▅"
