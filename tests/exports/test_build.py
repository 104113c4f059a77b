"""A pipeline with exports: they follow its build, a failed one is reported and repeated, and nothing is built again for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.flows.cli.render import print_summary
from indexmill.serve.index import OpenIndex
from indexmill.storage.errors import ExportFailed, PublishRefused
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build, FinishedBuild
from tests.exports.readers import READERS

INDEX = "demo-images"


def set_exports(*exports: dict[str, object]) -> str:
    return "publish.export=" + json.dumps(exports)


def test_exports_follow_a_build_and_are_repeated_without_a_rebuild(
    finished_build: FinishedBuild, next_build: Build, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One target works, and one is a file. When that is gone, the next build exports, with every stage from the cache."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("in the way")
    setting = set_exports({"format": "npy", "to": str(good)}, {"format": "parquet", "to": str(bad)})
    with pytest.raises(ExportFailed) as caught:
        next_build(digits, setting)
    assert caught.value.exit_code == 4 and "1 of 2 exports failed" in caught.value.what and str(bad) in caught.value.got
    # The remedy of the failed export itself, and the root, which is not the default one.
    assert caught.value.where == f"publish.export of {INDEX}: parquet to {bad}"
    assert caught.value.next_step.startswith("choose another directory, or remove this one; then build again, or run")
    assert f"indexmill export {INDEX} --root {tmp_path / 'root'}`" in caught.value.next_step
    summary = caught.value.summary
    assert summary is not None and [result["state"] for result in summary["exports"]] == ["exported", "failed"]
    # An export is no part of the snapshot: this is the one that was built without exports.
    assert summary["snapshot_id"] == finished_build.summary["snapshot_id"] and summary["published"]
    assert all(run["cached"] for run in summary["stages"].values())
    print_summary(summary)
    assert f"export   parquet to {bad}: failed" in capsys.readouterr().out
    assert (good / "img_emb" / "img_emb_00000.npy").exists()

    run = CliRunner().invoke(app, ["export", INDEX, "--root", str(tmp_path / "root"), "--json"])
    assert run.exit_code == 4
    assert sorted(result["state"] for result in json.loads(run.stdout)["exports"]) == ["failed", "unchanged"]
    assert "next:     choose another directory, or remove this one; then run this command again" in run.stderr
    bad.unlink()
    run = CliRunner().invoke(app, ["export", INDEX, "--root", str(tmp_path / "root")])
    assert run.exit_code == 0 and f"parquet to {bad}: snapshot {summary['snapshot_id']}, 120 of 120 rows written" in run.stdout

    shutil.rmtree(bad)
    summary = next_build(digits, setting)
    assert [result["state"] for result in summary["exports"]] == ["unchanged", "exported"]
    assert all(run["cached"] for run in summary["stages"].values())
    assert next_build(digits)["exports"] == []
    run = CliRunner().invoke(app, ["export", INDEX, "--root", str(tmp_path / "root")])
    assert run.exit_code == 2 and "this index has no exports" in run.stderr


@pytest.mark.slow
def test_a_refused_build_is_not_exported(next_build: Build, digits: Path, tmp_path: Path) -> None:
    """The exports run after the gate."""
    with pytest.raises(PublishRefused):
        next_build(digits, set_exports({"format": "npy", "to": str(tmp_path / "out")}), "publish.gate.minimum_items=1000")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("export_format", ["faiss", "hnswlib", "lancedb", "pgvector", "qdrant"])
def test_real_embeddings_have_the_neighbors_of_the_published_index(
    export_format: str, finished_build: FinishedBuild, tmp_path: Path, get_target: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, of digits in an exact index with both sides."""
    root, target = shutil.copytree(finished_build.root, tmp_path / "root"), get_target(export_format)
    command = ["export", INDEX, "--root", str(root), "--to", target, "--format", export_format]
    table = ["--table", "drawn_vectors"] if export_format in ("lancedb", "pgvector", "qdrant") else []
    run = CliRunner().invoke(app, [*command, *table])
    assert run.exit_code == 0, run.stderr
    with OpenIndex(Root(root), INDEX) as index:
        ids = pq.read_table(Snapshots(Root(root), INDEX).file(index.manifest, "items.parquet"))["item_id"].to_pylist()[:12]
        queries = index.reconstruct_vectors(ids)
        _, expected = index.search_vectors(queries, 10)
    neighbors, rows = READERS[export_format](target, queries, "cosine")
    assert neighbors == expected.tolist()
    assert len(rows) == 120 and all(row["path"] for row in rows.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "x"], "got:      no --format"),
        (["--format", "npy"], "next:     add --to DIRECTORY|URL"),
        (["--snapshot", "00001-x"], "got:      no --format and no --to"),
        (["--to", "x", "--format", "csv"], "expected: one of: parquet, npy, faiss, hnswlib, lancedb, pgvector, qdrant"),
        (["--to", "x", "--format", "numpy"], "got:      numpy\n  next:     did you mean npy?"),
        (["--to", "/proc/x", "--format", "npy"], "the directory of the export cannot be written"),
        (["--to", "x", "--format", "pgvector"], "postgresql://"),
        (["--to", "postgresql://me:secret@host/db", "--format", "pgvector"], "without a password"),
        (["--to", "x", "--format", "npy", "--table", "t"], "writes files"),
        (["--to", "x", "--format", "npy", "--snapshot", "00009-x"], "has no snapshot 00009-x"),
    ],
)
def test_options_that_do_not_fit_are_explained(options: list[str], message: str, finished_build: FinishedBuild) -> None:
    """With exit code 2, and without the password."""
    run = CliRunner().invoke(app, ["export", INDEX, "--root", str(finished_build.root), *options])
    assert run.exit_code == 2 and message in run.stderr and "secret" not in run.stderr


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    import importlib

    def import_module(name: str) -> Any:
        raise ModuleNotFoundError(name=name)

    for name in ("hnswlib", "lancedb", "qdrant"):
        importlib.import_module(f"indexmill.tasks.exports.{name}")
    monkeypatch.setattr("indexmill.tasks.exports.base.importlib.import_module", lambda name: import_module(name))
    from indexmill.tasks.exports.base import import_client

    with pytest.raises(Exception, match="not installed") as caught:
        import_client("qdrant_client", "qdrant")
    assert "pip install 'indexmill[qdrant]'" in str(caught.value)
