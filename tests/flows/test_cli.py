"""The command line: what it says to people, to machines, and about bad input."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.flows.cli.merge import merge_index
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots, compute_manifest_sha256
from indexmill.tasks.indexing.merge import merge_shards
from tests.conftest import QUICK

REPOSITORY = Path(__file__).parents[2]


def indexmill(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "indexmill", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def refused(*arguments: str) -> str:
    """What a refused command says; it must be a message, not a traceback, and exit 2."""
    run = indexmill(*arguments)
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert "  next: " in run.stderr
    return run.stderr


def build_arguments(root: Path, folder: Path, *changes: str) -> list[str]:
    settings = [f"dataset.path={folder}", *QUICK, *changes]
    return ["build", "demo-images", "--root", str(root), *(part for change in settings for part in ("--set", change))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("index.factroy=Flat", ["unknown key factroy", "did you mean factory?"]),
        ("dataset.path=/nowhere/at/all", ["image folder does not exist", "/nowhere/at/all", "one subfolder"]),
        ("index.factory=Bogus", ["FAISS refuses this factory", "index.factory = Bogus"]),
        ("index.factory=IVF500,Flat", ["fewer items than the factory", "at least 500", "index.factory=Flat"]),
        ("evaluation.k=[1,500]", ["fewer items than the largest evaluation.k", "at least 500", "evaluation.k=[1]"]),
    ],
)  # fmt: skip
def test_bad_configs_end_with_a_message_and_no_snapshot(change: str, said: list[str], server: str, digits: Path, tmp_path: Path) -> None:
    """What, where, expected, got, next step; and nothing half-written."""
    message = refused(*build_arguments(tmp_path / "root", digits, change))
    assert [part for part in said if part not in message] == []
    assert not list((tmp_path / "root").glob("indexes/*/snapshots/*"))
    assert not list((tmp_path / "root").glob("embeddings/*/part-*"))


def test_an_empty_folder_is_refused(server: str, tmp_path: Path) -> None:
    """No items, no index."""
    (tmp_path / "empty").mkdir()
    message = refused(*build_arguments(tmp_path / "root", tmp_path / "empty"))
    assert "the source has no items" in message
    assert str(tmp_path / "empty") in message


def test_a_folder_with_one_label_is_refused_with_the_way_out(server: str, digits: Path, tmp_path: Path) -> None:
    """Every result would count as relevant; labels can be left out instead."""
    message = refused(*build_arguments(tmp_path / "root", digits, "dataset.exclude_labels=['0','1','2','4','5','6','7','8','9']"))
    assert "one label" in message
    assert "dataset.labels=none" in message


def test_a_root_that_cannot_be_written_is_refused(digits: Path, tmp_path: Path) -> None:
    """A read-only directory; for the superuser, whom permissions do not stop, a place where nothing can be made."""
    if os.geteuid() == 0:
        place = Path("/sys/indexmill")
    else:
        place = tmp_path / "closed" / "root"
        place.parent.mkdir(mode=0o500)
    message = refused(*build_arguments(place, digits))
    assert "the root cannot be written" in message
    assert str(place) in message


def test_a_running_build_keeps_a_second_one_out(server: str, digits: Path, tmp_path: Path) -> None:
    """One build of one index at a time."""
    from indexmill.storage.locks import lease

    with lease(tmp_path / "root" / "indexes" / "demo-images" / "lease", holder="the night's own"):
        assert "the night's own" in refused(*build_arguments(tmp_path / "root", digits))


def test_verbose_shows_the_traceback_too(tmp_path: Path) -> None:
    """For those who want to look inside."""
    run = indexmill("build", "no-such-pipeline", "--verbose", "--root", str(tmp_path))
    assert run.returncode == 2
    assert "Traceback" in run.stderr
    assert "there is no pipeline no-such-pipeline" in run.stderr


def test_json_is_one_object_alone_on_standard_output(server: str, digits: Path, tmp_path: Path) -> None:
    """Progress goes to standard error, as lines with the time of day where there is no terminal."""
    run = indexmill(*build_arguments(tmp_path / "root", digits), "--json")
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    promised = ["name", "snapshot_id", "path", "published", "items", "database", "query", "rejected", "encoded", "reused"]
    assert {*promised, "stages", "metrics"} <= set(summary)
    assert set(summary["stages"]["encode"]) == {"seconds", "cached"}
    assert "encoding images: done in" in run.stderr
    assert run.stderr.splitlines()[0][2] == ":"


@pytest.fixture
def built(encoded_digits: Path, tmp_path: Path) -> Path:
    """A finished build of the test's own."""
    return Path(shutil.copytree(encoded_digits, tmp_path / "root"))


def test_a_refused_build_ends_with_code_3_and_a_reason_overrules(built: Path, digits: Path) -> None:
    """The message names rule and remedy; with the remedy the same build is published, and the history tells both."""
    strict = build_arguments(built, digits, "encoder.precision=float32", "publish.gate.minimum_items=1000")
    refused_build = indexmill(*strict)
    assert refused_build.returncode == 3
    assert "must be at least 1,000" in refused_build.stderr
    assert "--force REASON" in refused_build.stderr
    forced = indexmill(*strict, "--force", "a small shop", "--json")
    assert forced.returncode == 0, forced.stderr
    rows = json.loads(CliRunner().invoke(app, ["snapshots", "demo-images", "--root", str(built), "--json"]).stdout)
    assert [(row["live"], row["force_reason"]) for row in rows] == [(False, None), (True, "a small shop")]
    history = CliRunner().invoke(app, ["history", "demo-images", "--root", str(built)])
    assert history.exit_code == 0
    assert "forced" in history.stdout


def test_search_finds_a_served_picture_first_by_itself(built: Path, digits: Path) -> None:
    """Whichever side it is on: the published index holds every item."""
    for picture in sorted(digits.rglob("*.png"))[:3]:
        run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(picture), "--root", str(built), "-k", "3", "--json"])
        assert run.exit_code == 0, run.output
        answer = json.loads(run.stdout)
        first = answer["results"][0]
        assert first["key"] == picture.relative_to(digits).as_posix()
        assert first["score"] == pytest.approx(1, abs=1e-4)
        assert [item["rank"] for item in answer["results"]] == [1, 2, 3]
        assert sorted((item["score"] for item in answer["results"]), reverse=True) == [item["score"] for item in answer["results"]]


def test_search_prints_a_table_with_ranks_scores_and_keys(built: Path, digits: Path) -> None:
    """For people: the picture itself on top with score 1."""
    picture = sorted(digits.rglob("*.png"))[0]
    run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(picture), "--root", str(built), "-k", "2"])
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "distance", "key", "label"]
    assert lines[1].split() == ["1", "1.0000", "0.0000", picture.relative_to(digits).as_posix(), "0"]
    assert "searched in" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo-images", "--image", __file__, "--snapshot", "00007-x"], "no snapshot"),
        (["demo-images", "some text", "--image", __file__], "one query"),
        (["no-such-index", "text"], "there is no index no-such-index"),
        (["demo-images", "a text"], "holds images"),
        (["demo-images"], "no query"),
        (["demo-images", "--image", "/nowhere.png"], "cannot be read"),
        (["demo-images", "--image", __file__], "no image format"),
    ],
)
def test_bad_questions_are_answered_with_the_way_to_ask(arguments: list[str], said: str, built: Path) -> None:
    """Exit 2 and a message."""
    run = CliRunner().invoke(app, ["search", *arguments, "--root", str(built)])
    assert run.exit_code == 2
    assert said in run.stderr


def test_a_damaged_snapshot_is_not_searched(built: Path, digits: Path) -> None:
    """One changed byte in a FAISS file is an error, never a wrong answer."""
    path = next(built.glob("indexes/*/snapshots/*/shard-00000.faiss"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    picture = next(digits.rglob("*.png"))
    run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(picture), "--root", str(built)])
    assert run.exit_code == 2
    assert "shard-00000.faiss" in run.stderr


def test_an_encoder_that_is_no_longer_the_snapshots_is_refused(built: Path, digits: Path) -> None:
    """A fingerprint that differs means that scores would mean nothing."""
    path = next(built.glob("indexes/*/snapshots/*/manifest.json"))
    manifest = {**json.loads(path.read_text()), "fingerprint": "0" * 32}
    path.write_text(json.dumps({**manifest, "manifest_sha256": compute_manifest_sha256(manifest)}))
    run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(next(digits.rglob("*.png"))), "--root", str(built)])
    assert run.exit_code == 2
    assert "would be meaningless" in run.stderr


def test_a_snapshot_that_is_merged_is_held(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention, which removes only what it can lock for itself, cannot lock it until the file is written."""
    manifest = Snapshots(Root(built), "demo-images").get_path(str(Snapshots(Root(built), "demo-images").get_live_id())) / "manifest.json"
    tried: list[bool] = []

    def merged(*arguments: Any, **options: Any) -> Any:
        with manifest.open() as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(True)
        return merge_shards(*arguments, **options)

    monkeypatch.setattr("indexmill.flows.cli.merge.merge_shards", merged)
    assert merge_index(Root(built), "demo-images", tmp_path / "merged.faiss", "1GB")["vectors"] == 120
    assert tried == [True]
    with manifest.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_merge_writes_one_file_that_faiss_reads(built: Path, tmp_path: Path) -> None:
    """All 120 items under their ids, and the infos beside it; a second line says how to open it."""
    output = tmp_path / "digits.faiss"
    run = CliRunner().invoke(app, ["merge", "demo-images", "--root", str(built), "--output", str(output), "--json"])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout)
    assert (answer["vectors"], answer["files"]) == (120, [str(output)])
    assert faiss.read_index(str(output)).ntotal == 120
    assert json.loads(Path(answer["infos"]).read_text())["index_path"] == "digits.faiss"
    run = CliRunner().invoke(app, ["merge", "demo-images", "--root", str(built), "--output", str(output)])
    assert "faiss.read_index" in run.stdout


def test_the_catalog_lists_builds(built: Path) -> None:
    """As rows for machines, as a table for people; made anew when it is gone."""
    (built / "catalog.duckdb").unlink()
    run = CliRunner().invoke(app, ["catalog", "--root", str(built), "--json"])
    rows = json.loads(run.stdout)
    assert [(row["index_name"], row["live"], row["items"]) for row in rows] == [("demo-images", True, 120)]
    assert "demo-images" in CliRunner().invoke(app, ["catalog", "--root", str(built)]).stdout


def test_pipelines_and_check_answer_without_loading_anything_heavy() -> None:
    """Speaking takes no torch, no FAISS, no Prefect."""
    code = (
        "import sys; from typer.testing import CliRunner; from indexmill.flows.cli.app import app\n"
        "for arguments in (['--help'], ['pipelines'], ['check', 'demo-text']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        "print([name for name in ('torch', 'faiss', 'prefect', 'polars', 'matplotlib', 'duckdb') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr
