"""Builds after the first one: what they reuse, repeat and repair."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.errors import InputError
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ModelSpec
from tests.conftest import Build, FinishedBuild, copy_encoded_digits
from tests.evaluation.counted_searches import count_searched
from tests.flows.built import list_run_stages, read_manifest


def test_a_second_build_runs_no_stage_and_reports_the_same(next_build: Build, finished_build: FinishedBuild, digits: Path) -> None:
    """Every stage comes from the cache, and the summary is the same but for what was run."""
    first, second = finished_build.summary, next_build(digits)
    assert list_run_stages(second) == set()
    assert (first["encoded"], second["encoded"], second["reused"]) == (120, 0, 120)
    keys = ("snapshot_id", "metrics", "items", "database", "query", "published")
    assert [first[key] for key in keys] == [second[key] for key in keys]
    assert Path(second["path"]).name == Path(first["path"]).name


@pytest.mark.slow
def test_new_images_alone_are_encoded_and_the_index_is_that_of_a_build_from_scratch(
    quick_build: Build, finished_build: FinishedBuild, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same ids, same sides, same metrics, whether the items came in one build or in two.

    In the second, only queries that are new are compared with all items.
    """
    searched = count_searched(monkeypatch, "_search_rows")
    paths = sorted(pictures.rglob("*.png"))[::12]
    for path in paths:
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    before = quick_build(pictures)
    sides = dict(zip(*pq.read_table(Path(before["path"]) / "items.parquet").select(["item_id", "side"]).to_pydict().values(), strict=True))
    for path in paths:  # other bytes, so that no vector of theirs is stored
        path.write_bytes((tmp_path / f"{path.parent.name}-{path.name}").read_bytes() + b"new")
    nightly = quick_build(pictures)
    new_queries = nightly["query"] - sum(side == "query" for side in sides.values())
    assert 0 < new_queries < nightly["query"]
    assert searched == [new_queries]
    scratch = quick_build(pictures, root=copy_encoded_digits(finished_build, tmp_path / "scratch"))
    assert nightly["encoded"] == scratch["encoded"] == len(paths)
    tables = [pq.read_table(Path(summary["path"]) / "items.parquet") for summary in (nightly, scratch)]
    assert tables[0].equals(tables[1])
    assert nightly["metrics"] == pytest.approx(scratch["metrics"], abs=1e-6)
    sides_after = dict(zip(tables[0]["item_id"].to_pylist(), tables[0]["side"].to_pylist(), strict=True))
    assert {item: sides_after[item] for item in sides} == sides
    assert read_manifest(tmp_path / "root").parent == before["snapshot_id"]


@pytest.mark.slow
def test_a_root_that_was_moved_is_used_as_it_was(next_build: Build, build: Build, digits: Path, tmp_path: Path) -> None:
    """No record holds the root's path."""
    settings = ["encoder.chunk_rows=70", "index.shards=2"]
    shutil.move(tmp_path / "root", tmp_path / "elsewhere")
    assert list_run_stages(build(digits, *settings, root=tmp_path / "elsewhere")) == set()


@pytest.mark.slow
def test_renamed_and_copied_images_are_not_encoded_again(next_build: Build, pictures: Path) -> None:
    """The store goes by content: another folder with other names costs no encoding."""
    for label in list(pictures.iterdir()):
        label.rename(pictures / f"digit-{label.name}")
    shutil.copytree(pictures / "digit-1", pictures / "copies")
    summary = next_build(pictures)
    assert (summary["encoded"], summary["reused"], summary["items"]) == (0, 120, 132)


def param(pattern: str, *stages: str, slow: bool = True) -> object:
    return pytest.param(pattern, set(stages), id=pattern, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("pattern", "stages"),
    [
        param("catalog.duckdb"),
        param("datasets/*/ingested/*/items.parquet", "ingest"),
        param("datasets/*/validated/*/rejects.parquet", "validate"),
        param("datasets/*/split/*/items.parquet", "split"),
        param("embeddings/*/part-00001.parquet", "encode"),
        param("indexes/*/trained/*.faiss", "train"),
        param("indexes/*/shards/*.faiss", "shard"),
        param("indexes/*/evaluations/*/per_query.parquet", "evaluate"),
        param("indexes/*/evaluations/ground_truth-*.npz", "evaluate"),
        param("indexes/*/current", "publish", slow=False),
        param("indexes/*/snapshots/*/manifest.json", "publish"),
        param("indexes/*/snapshots/*/shard-00000.faiss", "publish"),
        param("indexes/*/snapshots/*/report/report.html", "publish"),
        param("cache/validate-*", "validate"),
    ],
)
def test_a_deleted_artifact_is_made_again_and_nothing_else_is(
    pattern: str, stages: set[str], next_build: Build, finished_build: FinishedBuild, digits: Path, tmp_path: Path
) -> None:
    """The stage that writes a file writes it again; the metrics stay."""
    root = tmp_path / "root"
    sorted(root.glob(pattern))[0].unlink()
    summary = next_build(digits)
    # The two shards on the database side are the stage's; the query side's is made when a snapshot is assembled.
    assert list_run_stages(summary) == stages or (pattern.startswith("indexes/*/shards") and list_run_stages(summary) <= stages)
    assert summary["metrics"] == finished_build.summary["metrics"]
    assert summary["snapshot_id"] == finished_build.summary["snapshot_id"]
    assert sorted(root.glob(pattern)) or pattern.startswith("indexes/*/shards")
    if pattern.startswith("embeddings"):
        assert (summary["encoded"], summary["reused"]) == (50, 70)
    if pattern.startswith(("datasets/*/split", "indexes/*/current", "cache")):  # one of each kind: afterwards all is cached
        assert list_run_stages(next_build(digits)) == set()


@pytest.mark.slow
def test_a_damaged_index_of_the_right_size_is_found_and_made_again(next_build: Build, digits: Path, tmp_path: Path) -> None:
    """FAISS would answer wrongly without an error; every build checks the digests of the live snapshot's files."""
    root = tmp_path / "root"
    path = next(root.glob("indexes/*/snapshots/*/shard-00000.faiss"))
    sound = path.read_bytes()
    for copy in [path, *root.glob("indexes/*/shards/*.faiss")]:
        if copy.read_bytes() == sound:
            copy.write_bytes(sound[:-100] + bytes(50) + sound[-50:])
    summary = next_build(digits)
    assert list_run_stages(summary) >= {"shard", "publish"}
    assert path.read_bytes() == sound
    assert list_run_stages(next_build(digits)) == set()


def test_a_refreshed_stage_is_run_again_with_those_that_follow(next_build: Build, finished_build: FinishedBuild, digits: Path) -> None:
    """From `tune` on, though nothing has changed; the snapshot is the same. A name that is no stage is refused."""
    again = next_build(digits, refresh="tune")
    assert list_run_stages(again) == {"tune", "evaluate", "publish"}
    assert again["snapshot_id"] == finished_build.summary["snapshot_id"]
    with pytest.raises(InputError, match="unknown stage"):
        next_build(digits, refresh="tuning")


@pytest.mark.slow
def test_query_encoding_is_timed_once_per_encoder_and_device(next_build: Build, digits: Path) -> None:
    """The next build reports the same figures to the last digit, without loading a model; more queries are timed again."""

    def measure(*settings: str) -> dict[str, float]:
        summary = next_build(digits, *settings, refresh="evaluate")
        return {name: value for name, value in summary["timings"].items() if name.startswith("encode_query")}

    first = measure("evaluation.encode_latency_queries=3")
    assert first["encode_query_p50_ms"] > 0
    assert measure("evaluation.encode_latency_queries=2") == first
    assert measure("evaluation.encode_latency_queries=4") != first


@pytest.mark.slow
def test_the_encoder_is_preloaded_only_when_the_source_has_changed(
    quick_build: Build, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first build cannot know, an unchanged source needs no encoder, a source with an image less might."""
    preloaded: list[str] = []
    preload = EncoderProcess.preload

    def count(self: EncoderProcess, config: EncoderConfig, model: ModelSpec | None) -> None:
        assert model == ModelSpec(config, "float32", "image")
        preloaded.append(config.kind)
        preload(self, config, model)

    monkeypatch.setattr(EncoderProcess, "preload", count)
    quick_build(pictures)
    quick_build(pictures)
    assert preloaded == []
    next(pictures.rglob("*.png")).unlink()
    quick_build(pictures)
    assert preloaded == ["efficientnet-lite"]


@pytest.mark.slow
def test_an_unreadable_file_is_a_reject_and_is_tried_again_in_every_build(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """A broken link is counted, not lost; once it leads to an image it is an item, whose content needs no encoding."""
    target = tmp_path / "target.png"
    (pictures / "0" / "link.png").symlink_to(target)
    first = quick_build(pictures)
    assert (first["items"], first["rejected"]) == (121, 1)
    assert list_run_stages(quick_build(pictures)) == {"ingest", "validate"}
    target.write_bytes(next((pictures / "1").iterdir()).read_bytes())
    third = quick_build(pictures)
    assert (third["items"], third["rejected"], third["encoded"]) == (121, 0, 0)
