"""The command line: what it prints for people, for programs, and about bad input."""

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
from tests.conftest import QUICK, SETTINGS, FinishedBuild

REPOSITORY = Path(__file__).parents[2]


def indexmill(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "indexmill", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=900,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def refuse(*arguments: str) -> str:
    """Run a command in this process that must end with code 2, a message with the next step, and no output. Returns the message."""
    run = CliRunner().invoke(app, list(arguments))
    assert run.exit_code == 2, run.output
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    assert "  next: " in run.stderr
    return run.stderr


def build_arguments(root: Path, folder: Path, *changes: str) -> list[str]:
    settings = [f"dataset.path={folder}", *QUICK, *changes]
    return ["build", "demo-images", "--root", str(root), *(part for setting in settings for part in ("--set", setting))]


def test_a_bad_config_ends_the_process_with_a_message_and_code_2(digits: Path, tmp_path: Path) -> None:
    """In a process of its own: no traceback, nothing on standard output, and the nearest valid key."""
    run = indexmill(*build_arguments(tmp_path / "root", digits, "index.factroy=Flat"))
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert "Traceback" not in run.stderr
    assert "unknown key factroy" in run.stderr
    assert "did you mean factory?" in run.stderr
    assert "  next: " in run.stderr


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ("dataset.path=/nowhere/at/all", ["image folder does not exist", "/nowhere/at/all", "one subfolder"]),
        ("index.factory=Bogus", ["FAISS rejects this factory", "index.factory = Bogus"]),
        ("index.factory=IVF500,Flat", ["fewer items than the factory", "at least 500", "index.factory=Flat"]),
        ("evaluation.k=[1,500]", ["fewer items than the largest evaluation.k", "at least 500", "evaluation.k=[1]"]),
    ],
)  # fmt: skip
def test_bad_configs_end_with_a_message_and_no_snapshot(
    change: str, messages: list[str], server: str, digits: Path, tmp_path: Path
) -> None:
    """What is wrong, where, expected, got, next step; and nothing half-written."""
    printed = refuse(*build_arguments(tmp_path / "root", digits, change))
    assert [message for message in messages if message not in printed] == []
    assert not list((tmp_path / "root").glob("indexes/*/snapshots/*"))
    assert not list((tmp_path / "root").glob("embeddings/*/part-*"))


def test_an_empty_folder_is_refused(server: str, tmp_path: Path) -> None:
    """No items, no index."""
    (tmp_path / "empty").mkdir()
    message = refuse(*build_arguments(tmp_path / "root", tmp_path / "empty"))
    assert "the source has no items" in message
    assert str(tmp_path / "empty") in message


def test_a_folder_with_one_label_is_refused_with_the_alternative(server: str, digits: Path, tmp_path: Path) -> None:
    """Every result would count as relevant; labels can be left out instead."""
    message = refuse(*build_arguments(tmp_path / "root", digits, "dataset.exclude_labels=['0','1','2','4','5','6','7','8','9']"))
    assert "one label" in message
    assert "dataset.labels=none" in message


def test_a_root_that_cannot_be_written_is_refused(digits: Path, tmp_path: Path) -> None:
    """A read-only directory; for the superuser, whom permissions do not stop, one where the kernel creates no files."""
    if os.geteuid() == 0:
        root = Path("/sys/indexmill")
    else:
        root = tmp_path / "closed" / "root"
        root.parent.mkdir(mode=0o500)
    message = refuse(*build_arguments(root, digits))
    assert "the root cannot be written" in message
    assert str(root) in message


def test_a_running_build_keeps_a_second_one_out(server: str, digits: Path, tmp_path: Path) -> None:
    """One build per index at a time."""
    from indexmill.storage.locks import lease

    with lease(tmp_path / "root" / "indexes" / "demo-images" / "lease", holder="the nightly build"):
        assert "the nightly build" in refuse(*build_arguments(tmp_path / "root", digits))


def test_verbose_shows_the_traceback_too(tmp_path: Path) -> None:
    """For whoever debugs."""
    run = CliRunner().invoke(app, ["build", "no-such-pipeline", "--verbose", "--root", str(tmp_path)])
    assert run.exit_code == 2
    assert "Traceback" in run.stderr
    assert "there is no pipeline no-such-pipeline" in run.stderr


@pytest.mark.slow
def test_json_is_the_only_output_on_standard_output(server: str, digits: Path, tmp_path: Path) -> None:
    """In a process of its own. Progress goes to standard error, as lines with the time of day where there is no terminal."""
    run = indexmill(*build_arguments(tmp_path / "root", digits, "encoder.precision=float32", "dataset.limit=60"), "--json")
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    documented = ["name", "snapshot_id", "path", "published", "items", "database", "query", "rejected", "encoded", "reused"]
    assert {*documented, "stages", "metrics"} <= set(summary)
    assert set(summary["stages"]["encode"]) == {"seconds", "cached"}
    assert "encoding images: done in" in run.stderr
    assert run.stderr.splitlines()[0][2] == ":"


@pytest.fixture
def built(finished_build: FinishedBuild, tmp_path: Path) -> Path:
    """A root of the test's own with a finished build."""
    return Path(shutil.copytree(finished_build.root, tmp_path / "root"))


def test_a_refused_build_ends_with_code_3_and_a_reason_publishes_it(built: Path, digits: Path, server: str) -> None:
    """The message names rule and next step; with a reason the same build is published, and the history shows both."""
    strict = build_arguments(built, digits, *SETTINGS, "publish.gate.minimum_items=1000")
    refused = CliRunner().invoke(app, strict)
    assert refused.exit_code == 3
    assert "must be at least 1,000" in refused.stderr
    assert "--force REASON" in refused.stderr
    forced = CliRunner().invoke(app, [*strict, "--force", "a small shop", "--json"])
    assert forced.exit_code == 0, forced.stderr
    rows = json.loads(CliRunner().invoke(app, ["snapshots", "demo-images", "--root", str(built), "--json"]).stdout)
    assert [(row["live"], row["force_reason"]) for row in rows] == [(False, None), (True, "a small shop")]
    history = CliRunner().invoke(app, ["history", "demo-images", "--root", str(built)])
    assert history.exit_code == 0
    assert "forced" in history.stdout


def test_search_finds_every_served_image_first(built: Path, digits: Path) -> None:
    """On either side of the split: the published index holds every item."""
    for image in sorted(digits.rglob("*.png"))[:3]:
        run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(image), "--root", str(built), "-k", "3", "--json"])
        assert run.exit_code == 0, run.output
        answer = json.loads(run.stdout)
        first = answer["results"][0]
        assert first["key"] == image.relative_to(digits).as_posix()
        assert first["score"] == pytest.approx(1, abs=1e-4)
        assert [item["rank"] for item in answer["results"]] == [1, 2, 3]
        assert sorted((item["score"] for item in answer["results"]), reverse=True) == [item["score"] for item in answer["results"]]


def test_search_prints_a_table_with_ranks_scores_and_keys(built: Path, digits: Path) -> None:
    """For people: the image itself on top with score 1."""
    image = sorted(digits.rglob("*.png"))[0]
    run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(image), "--root", str(built), "-k", "2"])
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "distance", "key", "label"]
    assert lines[1].split() == ["1", "1.0000", "0.0000", image.relative_to(digits).as_posix(), "0"]
    assert "searched in" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo-images", "--image", __file__, "--snapshot", "00007-x"], "no snapshot"),
        (["demo-images", "some text", "--image", __file__], "one query"),
        (["no-such-index", "text"], "there is no index no-such-index"),
        (["demo-images", "a text"], "does not take text queries"),
        (["demo-images"], "no query"),
        (["demo-images", "--image", "/nowhere.png"], "cannot be read"),
        (["demo-images", "--image", __file__], "no image format"),
    ],
)
def test_bad_searches_are_refused_with_a_message(arguments: list[str], message: str, built: Path) -> None:
    """Exit 2 and a message."""
    run = CliRunner().invoke(app, ["search", *arguments, "--root", str(built)])
    assert run.exit_code == 2
    assert message in run.stderr


def test_a_damaged_snapshot_is_not_searched(built: Path, digits: Path) -> None:
    """One changed byte in a FAISS file is an error, never a wrong answer."""
    path = next(built.glob("indexes/*/snapshots/*/shard-00000.faiss"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    image = next(digits.rglob("*.png"))
    run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(image), "--root", str(built)])
    assert run.exit_code == 2
    assert "shard-00000.faiss" in run.stderr


def test_a_snapshot_of_another_encoder_is_not_searched(built: Path, digits: Path) -> None:
    """Scores between vectors of two encoders mean nothing, and fingerprints tell encoders apart."""
    path = next(built.glob("indexes/*/snapshots/*/manifest.json"))
    manifest = {**json.loads(path.read_text()), "fingerprint": "0" * 32}
    path.write_text(json.dumps({**manifest, "manifest_sha256": compute_manifest_sha256(manifest)}))
    run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(next(digits.rglob("*.png"))), "--root", str(built)])
    assert run.exit_code == 2
    assert "would be meaningless" in run.stderr


def test_a_snapshot_is_locked_while_it_is_merged(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention removes only what it can lock exclusively, which it cannot until the merged file is written."""
    manifest = Snapshots(Root(built), "demo-images").get_path(str(Snapshots(Root(built), "demo-images").get_live_id())) / "manifest.json"
    attempts: list[bool] = []

    def merge(*arguments: Any, **options: Any) -> Any:
        with manifest.open() as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        attempts.append(True)
        return merge_shards(*arguments, **options)

    monkeypatch.setattr("indexmill.flows.cli.merge.merge_shards", merge)
    assert merge_index(Root(built), "demo-images", tmp_path / "merged.faiss", "1GB")["vectors"] == 120
    assert attempts == [True]
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
    """As rows for programs, as a table for people; rebuilt when the file is gone."""
    (built / "catalog.duckdb").unlink()
    run = CliRunner().invoke(app, ["catalog", "--root", str(built), "--json"])
    rows = json.loads(run.stdout)
    assert [(row["index_name"], row["live"], row["items"]) for row in rows] == [("demo-images", True, 120)]
    assert "demo-images" in CliRunner().invoke(app, ["catalog", "--root", str(built)]).stdout


def test_help_pipelines_and_check_load_no_heavy_library() -> None:
    """They need no torch, no FAISS, no Prefect."""
    code = (
        "import sys; from typer.testing import CliRunner; from indexmill.flows.cli.app import app\n"
        "for arguments in (['--help'], ['pipelines'], ['check', 'demo-text']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        "print([name for name in ('torch', 'faiss', 'prefect', 'polars', 'matplotlib', 'duckdb') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert run.stdout.strip() == "[]", run.stderr
