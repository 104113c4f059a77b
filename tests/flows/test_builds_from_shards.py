"""Whole builds of images that stay in tar shards and in Parquet files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.serve import open_index
from indexmill.serve.thumbnails import make_thumbnail
from tests.conftest import SETTINGS, Build, FinishedBuild
from tests.flows.built import list_run_stages
from tests.sources.range_server import RangeServer
from tests.stage_inputs import set_mtime

COMPARED = ("map", "precision_at_1", "recall_at_10")


def list_digits(digits: Path) -> list[Path]:
    return sorted(digits.rglob("*.png"))


def pack_shard(paths: list[Path]) -> bytes:
    """Return a tar with the images in folders by label, and one that is damaged."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            archive.add(path, f"{path.parent.name}/{path.name}")
        archive.addfile(tarfile.TarInfo("0/damaged.png"), None)
    return buffer.getvalue()


def write_config(tmp_path: Path, dataset: str) -> str:
    config = tmp_path / "digits.yaml"
    demo = (Path(__file__).parents[2] / "configs" / "demo-images.yaml").read_text()
    start, end = demo.index("dataset:"), demo.index("encoder:")
    config.write_text(demo[:start] + "dataset:\n" + dataset + demo[end:])
    return str(config)


def check_like_folder(summary: dict[str, object], finished: FinishedBuild, root: Path) -> None:
    """The metrics are those of the same images in a folder; report and service show the images."""
    metrics, expected = (dict(found["metrics"]) for found in (summary, finished.summary))  # type: ignore[call-overload]
    assert {name: metrics[name] for name in COMPARED} == pytest.approx({name: expected[name] for name in COMPARED}, abs=0.01)
    assert (Path(str(summary["path"])) / "report" / "report.html").read_text().count("data:image/jpeg") > 50
    index = open_index(root, "demo-images")
    row = index.items.get_rows([index.search(vectors=[[1.0] + [0.0] * 1279], k=1).results[0][0].item_id])[0]
    assert row is not None
    assert make_thumbnail(index.manifest.image_root, row) is not None
    assert make_thumbnail(index.manifest.image_root, {**row, "content_digest": "0" * 32}) is None


@pytest.fixture
def range_server() -> Iterator[RangeServer]:
    server = RangeServer({})
    yield server
    server.close()


@pytest.mark.slow
def test_tar_shards_behind_web_addresses(
    build: Build, finished_build: FinishedBuild, digits: Path, tmp_path: Path, range_server: RangeServer
) -> None:
    """Two shards, each with an empty image: the metrics of the folder, thumbnails; the next night reads nothing and runs no stage."""
    paths = list_digits(digits)
    range_server.files |= {"/00000.tar": pack_shard(paths[:60]), "/00001.tar": pack_shard(paths[60:])}
    dataset = f"  source: webdataset\n  path: {range_server.url}/{{00000..00001}}.tar\n  labels: folder\n\n"
    config = write_config(tmp_path, dataset)
    summary = build(digits, "validate.max_reject_fraction=0.1", *SETTINGS[2:], config=config)
    assert (summary["items"], summary["rejected"], summary["published"]) == (122, 2, True)
    check_like_folder(summary, finished_build, tmp_path / "root")
    range_server.ranges.clear()
    again = build(digits, "validate.max_reject_fraction=0.1", *SETTINGS[2:], config=config)
    assert (list_run_stages(again), range_server.ranges) == (set(), [])


@pytest.mark.slow
def test_a_parquet_table_with_images(build: Build, finished_build: FinishedBuild, digits: Path, tmp_path: Path) -> None:
    """Hugging Face's struct, compressed, in row groups of 25: the metrics of the folder, and thumbnails."""
    paths = list_digits(digits)
    images = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path in paths])
    table = pa.table({"image": images, "label": [path.parent.name for path in paths]})
    pq.write_table(table, tmp_path / "digits.parquet", row_group_size=25)
    set_mtime(tmp_path / "digits.parquet")
    dataset = f"  source: parquet\n  path: {tmp_path}/digits.parquet\n  image_column: image\n  label_column: label\n\n"
    config = write_config(tmp_path, dataset)
    summary = build(digits, *SETTINGS[2:], config=config)
    assert (summary["items"], summary["published"]) == (120, True)
    check_like_folder(summary, finished_build, tmp_path / "root")
    assert list_run_stages(build(digits, *SETTINGS[2:], config=config)) == set()
