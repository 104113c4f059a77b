"""Whole builds from a bucket, from a column of URLs and from a database: the same index as from the folder on disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from indexmill import open_index
from tests.conftest import SETTINGS, Build, FinishedBuild
from tests.flows.built import list_run_stages
from tests.sources.test_remote_folder import upload
from tests.sources.web_server import serve

pytestmark = pytest.mark.slow


def check_two_nights(build: Build, finished: FinishedBuild, root: Path, picture: Path, location: str, *settings: str) -> dict[str, Any]:
    """The first night publishes what the folder gave and shows its images; the second one runs no stage."""
    summary = build(location, *SETTINGS, *settings)
    for key in ("items", "database", "query", "index"):
        assert summary[key] == finished.summary[key]
    with open_index(root, "demo-images") as index:
        (result,) = index.search(images=[picture], k=1).results[0]
        copy = Path(str(index.manifest.image_root)) / str(result.path)
        assert result.score == pytest.approx(1, abs=1e-4)
    assert copy.read_bytes() == picture.read_bytes() or result.score < 1
    assert copy.is_relative_to(root / "sources")
    again = build(location, *SETTINGS, *settings)
    assert list_run_stages(again) <= {"publish"}
    assert again["snapshot_id"] == summary["snapshot_id"]
    return summary


def test_a_folder_in_a_bucket(quick_build: Build, finished_build: FinishedBuild, bucket_url: str, digits: Path, tmp_path: Path) -> None:
    """Keys and contents are those of the folder, so the metrics are too."""
    upload(bucket_url, digits)
    picture = next(digits.rglob("*.png"))
    summary = check_two_nights(quick_build, finished_build, tmp_path / "root", picture, bucket_url)
    assert summary["metrics"] == pytest.approx(finished_build.summary["metrics"], abs=1e-6)


def test_a_column_of_urls(quick_build: Build, finished_build: FinishedBuild, digits: Path, tmp_path: Path) -> None:
    """The keys are those of the folder; the second night makes no request."""
    with serve() as web:
        paths = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
        web.files |= {f"/{path}": (digits / path).read_bytes() for path in paths}
        rows = [f"{path},{web.url}/{path},{path.split('/')[0]}" for path in paths]
        (tmp_path / "t.csv").write_text("\n".join(["key,url,label", *rows]) + "\n")
        dataset = (
            f"dataset={{source: csv, path: {tmp_path / 't.csv'}, image_column: url, label_column: label, key_column: key,"
            " downloads: {allow_private: true}}"
        )
        summary = check_two_nights(quick_build, finished_build, tmp_path / "root", digits / paths[0], str(tmp_path), dataset)
        assert len(web.requests) == len(paths)
    assert summary["metrics"] == pytest.approx(finished_build.summary["metrics"], abs=1e-6)


def test_a_database(quick_build: Build, finished_build: FinishedBuild, digits: Path, tmp_path: Path) -> None:
    """Images are bytes in SQLite; one more row costs one encoding."""
    paths = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
    connection = sqlite3.connect(tmp_path / "t.db")
    connection.execute("CREATE TABLE digits (key, label, picture)")
    connection.executemany(
        "INSERT INTO digits VALUES (?, ?, ?)", [(path, path.split("/")[0], (digits / path).read_bytes()) for path in paths]
    )
    connection.commit()
    dataset = (
        f"dataset={{source: sql, url: 'sqlite:///{tmp_path / 't.db'}', query: SELECT * FROM digits,"
        " image_column: picture, label_column: label, key_column: key}"
    )
    summary = check_two_nights(quick_build, finished_build, tmp_path / "root", digits / paths[0], str(tmp_path), dataset)
    assert summary["metrics"] == pytest.approx(finished_build.summary["metrics"], abs=1e-6)
    connection.close()
