"""Whole builds with queries of one's own: pictures judged by people, and captions judged by their pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ir_measures
import pyarrow.parquet as pq
import pytest
from ir_measures import AP, RR, Judged, P, Success, nDCG

from indexmill.configs.loading import load_config
from indexmill.flows.study_index import study_index
from indexmill.storage.errors import InputError, PublishRefused
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.root import Root
from indexmill.tasks.metrics import latency
from indexmill.tasks.sources.revisions import combine_revisions, read_query_revision, read_source_revision
from tests.conftest import QUICK, Build, FinishedBuild, copy_encoded_digits
from tests.encoding.checkpoints import write_clip_folder
from tests.flows.built import read_manifest

MEASURES = {
    AP: "map",
    nDCG @ 10: "ndcg_at_10",
    P @ 5: "precision_at_5",
    Success @ 1: "hit_rate_at_1",
    RR @ 10: "mrr_at_10",
    Judged @ 10: "judged_at_10",
}


def write_queries(folder: Path, digits: Path) -> Path:
    """Move the last drawing of each digit out of the items and make it a query: the digit itself is grade 2, its successor 1."""
    pictures = Path(shutil.copytree(digits, folder / "pictures"))
    rows, judgements = [], ["query-id\tcorpus-id\tscore"]
    (folder / "queries").mkdir()
    for label in range(10):
        path = sorted((pictures / str(label)).glob("*.png"))[-1]
        path.rename(folder / "queries" / f"{label}.png")
        rows.append({"id": str(label), "image": f"{label}.png"})
        for number, item in enumerate(sorted((pictures / str(label)).glob("*.png"))):
            key = item.relative_to(pictures).as_posix()
            judgements += [f"{label}\t{key}\t2"] if number % 2 else []
            judgements.append(f"{(label - 1) % 10}\t{key}\t{int(number % 3 == 0)}")
    rows.append({"id": "unjudged", "image": "0.png"})
    (folder / "queries" / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries" / "judgements.tsv").write_text("\n".join([*judgements, "0\tgone.png\t2"]) + "\n")
    best = [line.split("\t") for line in judgements if line.endswith("\t2")]
    (folder / "queries" / "strict.txt").write_text("".join(f"{query} 0 {item} 1\n" for query, item, _ in best))
    return pictures


def list_settings(folder: Path) -> list[str]:
    queries = folder / "queries"
    return [
        f"dataset.queries={{path: '{queries / 'queries.jsonl'}', image_column: image}}",
        f"dataset.judgements={queries / 'judgements.tsv'}",
        f"evaluation.sets={{strict: {{judgements: '{queries / 'strict.txt'}'}}}}",
        "evaluation.trec=true",
    ]


@pytest.fixture(scope="module")
def judged(finished_build: FinishedBuild, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The folder with pictures and queries, the root, and the summary of its build, for which the drawings are encoded."""
    from indexmill.flows.build_index import build_index

    folder = tmp_path_factory.mktemp("judged")
    pictures = write_queries(folder, digits)
    copy_encoded_digits(finished_build, folder / "root")
    settings = [f"dataset.path={pictures}", "encoder.precision=float32", *QUICK, *list_settings(folder)]
    return folder, folder / "root", build_index("demo-images", str(folder / "root"), settings)


def test_all_items_are_the_database_and_every_set_is_measured(judged: tuple[Path, Path, dict[str, Any]]) -> None:
    """Nothing is held out; the files name queries and items as the team does, and give other tools the report's figures."""
    _, root, summary = judged
    assert (summary["items"], summary["database"], summary["query"]) == (110, 110, 0)
    report = Path(summary["path"]) / "report"
    metrics_file = json.loads((report / "metrics.json").read_text())
    counts = metrics_file["counts"]
    assert metrics_file["relevance_source"] == "judgements"
    assert [counts[name] for name in ("queries", "queries_judged", "queries_unjudged", "judgements_without_item")] == [11, 10, 1, 1]
    assert (counts["strict/queries"], counts["strict/queries_judged"]) == (11, 10)
    for suffix, prefix in (("", ""), ("-strict", "strict/")):
        qrels = list(ir_measures.read_trec_qrels(str(report / f"qrels{suffix}.trec")))
        run = list(ir_measures.read_trec_run(str(report / f"run{suffix}.trec")))
        expected = {prefix + MEASURES[measure]: value for measure, value in ir_measures.calc_aggregate(list(MEASURES), qrels, run).items()}
        assert {name: summary["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    rows = pq.read_table(report / "per_query.parquet").to_pylist()
    assert {(row["query_set"], row["query"]) for row in rows} >= {("", "3"), ("strict", "3"), ("", "unjudged")}
    assert len({row["item_id"] for row in rows}) == 22
    manifest = read_manifest(root)
    assert manifest.query_stores == {manifest.fingerprint: ("queries.parquet", "queries-strict.parquet")}
    assert {"queries.parquet", "judgements.parquet", "judgements-strict.parquet"} <= {ref.path for ref in manifest.files}


def test_the_report_marks_what_people_judged(judged: tuple[Path, Path, dict[str, Any]]) -> None:
    """Grades, results that nobody judged, and the counts of what was left out."""
    page, text = ((Path(judged[2]["path"]) / "report" / name).read_text() for name in ("report.html", "report.md"))
    assert "✓ grade 2" in page
    assert "not judged" in page
    assert "1 query without a judgement; 1 judgement of an item that is not served" in text
    assert "strict: nDCG@10" in text
    assert "held-out" not in text


def test_garbage_collection_keeps_the_vectors_of_queries(judged: tuple[Path, Path, dict[str, Any]]) -> None:
    """The next build would have to encode them again."""
    root = Root(judged[1])
    try:
        assert [entry for entry in collect_garbage(root, days=0, dry_run=True) if entry.kind == "vectors"] == []
    finally:
        root.close()


def test_new_judgements_are_a_new_revision_for_the_watch(judged: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    """`watch-sources` compares with what the build recorded."""
    folder = Path(shutil.copytree(judged[0], tmp_path / "again"))  # with the times of the files
    settings = [setting.replace(str(judged[0]), str(folder)) for setting in list_settings(judged[0])]
    config = load_config("demo-images", [f"dataset.path={folder / 'pictures'}", *settings])
    root = Root(folder / "root")
    try:
        assert config.own_queries is not None
        before = read_query_revision(config.own_queries, root)
        with (folder / "queries" / "strict.txt").open("a") as file:
            file.write("1 0 gone 1\n")
        after = read_query_revision(config.own_queries, root)
        source_revision = read_source_revision(config.dataset, root)
        assert combine_revisions(source_revision, after) != combine_revisions(source_revision, before)
        assert root.read_last_revision("demo-images") == combine_revisions(source_revision, before)
    finally:
        root.close()


@pytest.mark.slow
def test_new_judgements_change_the_metrics_alone(judged: tuple[Path, Path, dict[str, Any]], build: Build, tmp_path: Path) -> None:
    """Nothing is encoded, trained or filled again; the gate refuses a significant drop of one set by its name."""
    folder = Path(shutil.copytree(judged[0], tmp_path / "again"))
    settings = [setting.replace(str(judged[0]), str(folder)) for setting in list_settings(judged[0])]
    gate = "publish.gate={significant_drop: {strict/ndcg_at_10: 0.01}, minimum: {ndcg_at_10: 0.1}}"
    strict = folder / "queries" / "strict.txt"
    strict.write_text("".join(line.replace("\n", "")[:-1] + "0\n" for line in strict.open()) + "0 0 gone 1\n")
    with pytest.raises(PublishRefused, match=r"gate") as caught:
        build(folder / "pictures", *settings, gate, root=folder / "root")
    assert "strict/ndcg_at_10 changed by -" in str(caught.value)
    shutil.copy(judged[0] / "queries" / "strict.txt", strict)
    summary = build(folder / "pictures", *settings, gate, root=folder / "root")
    assert (summary["encoded"], summary["published"]) == (0, True)
    assert all(summary["stages"][stage]["cached"] for stage in ("ingest", "validate", "split", "train", "shard"))


@pytest.mark.slow
def test_a_study_measures_the_judged_queries(judged: tuple[Path, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force and Flat find what the build found."""
    folder, root, summary = judged
    monkeypatch.setattr(latency, "MAX_SECONDS", 0.05)
    settings = [f"dataset.path={folder / 'pictures'}", "encoder.precision=float32", *QUICK, *list_settings(folder)]
    rows = study_index("demo-images", str(root), [*settings, "study.indexes=[{factory: Flat}]"])["rows"]
    for row in rows:
        measured = {name: row[name] for name in ("ndcg_at_10", "precision_at_10", "recall_at_10", "map")}
        assert measured == pytest.approx({name: summary["metrics"][name] for name in measured}, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["split.mode=hash"], "no item is held out"),
        (["evaluation.query_modality=image"], r"no evaluation\.query_modality"),
        (["dataset.queries=null"], "as a file"),
        (["dataset.queries=null", "dataset.judgements=null"], r"besides evaluation\.sets"),
        (["evaluation.sets={a: {split: dev}}"], "only source beir"),
        (["evaluation.sets={a: {queries: pairs}}"], "only be the main set"),
        (["dataset.queries.path=queries.txt"], r"jsonl"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(InputError, match=message):
        load_config("demo-images", ["dataset.path=x", *list_settings(tmp_path), *settings])


@pytest.mark.slow
def test_captions_and_images_are_two_indexes_over_the_same_stores(server: str, digits: Path, tmp_path: Path) -> None:
    """The second pipeline encodes nothing: neither items nor queries. Both judge by the pairs, and an image may have two captions."""
    from indexmill.flows.build_index import build_index

    pictures = Path(shutil.copytree(digits, tmp_path / "pictures"))
    rows = [
        {"key": f"{path.stem} {caption}", "image": str(path.relative_to(digits)), "text": f"{caption} {path.stem}"}
        for path in sorted(digits.rglob("*.png"))
        for caption in ("the digit", "a drawing of")
    ]
    (pictures / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "key_column: key, image_column: image, text_column: text"
    dataset = f"{{source: jsonl, path: '{pictures / 'rows.jsonl'}', {columns}, queries: pairs}}"
    clip = f"{{kind: open-clip, model: 'local-dir:{write_clip_folder(tmp_path / 'model')}', precision: float32}}"
    settings = [f"dataset={dataset}", f"encoder={clip}", "index={factory: Flat}", *QUICK]
    images = build_index("newyorker-clip", str(tmp_path / "root"), settings)
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "root" / "embeddings").rglob("part-*.parquet")}
    assert sorted(pq.read_metadata(path).num_rows for path in parts) == [120, 240]
    captions = build_index("newyorker-captions", str(tmp_path / "root"), [*settings, "index.modality=text"])
    assert (images["encoded"], captions["encoded"]) == (120, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root" / "embeddings").rglob("part-*.parquet")} == parts
    files = [json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text()) for summary in (images, captions)]
    assert [(file["index_modality"], file["query_modality"], file["counts"]["queries"]) for file in files] == [
        ("image", "text", 240),
        ("text", "image", 120),
    ]
    for name in ("text_to_image_recall_at_1", "text_to_image_recall_at_5", "image_to_text_recall_at_10"):
        assert images["metrics"][name] == captions["metrics"][name]
    # The first result of an exact search is the best image or caption, whatever the number of rows with it.
    assert images["metrics"]["hit_rate_at_1"] == pytest.approx(images["metrics"]["text_to_image_recall_at_1"])
    assert captions["metrics"]["hit_rate_at_10"] == pytest.approx(captions["metrics"]["image_to_text_recall_at_10"])
