"""Parquet tables that hold the images themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.configs.datasets import QueriesConfig
from indexmill.storage import contents
from indexmill.storage.contents import join_location, read_content
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.sources.query_files import QueryFile
from indexmill.tasks.sources.table import TableSource
from tests.sources.range_server import RangeServer
from tests.sources.table_files import make_source
from tests.sources.tar_files import make_jpeg
from tests.stage_inputs import OLD_MTIME_NS, set_mtime

IMAGES = [make_jpeg(seed) for seed in range(5)]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
KINDS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "binary": (pa.binary(), IMAGES),
    "large binary": (pa.large_binary(), IMAGES),
    "Hugging Face": (STRUCT, [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(IMAGES)]),
    "lists": (pa.list_(pa.binary()), [[image] for image in IMAGES]),
    "lists of structs": (pa.list_(STRUCT), [[{"bytes": image, "path": None}] for image in IMAGES]),
}


def write_images(path: Path, kind: pa.DataType, values: list[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": pa.array(values, kind), "text": pa.array([f"t{number}" for number in range(len(values))])}
    pq.write_table(pa.table(columns), path, **options)
    return set_mtime(path)


def read_items(source: TableSource, items: list[Item]) -> list[bytes]:
    assert source.image_root is not None
    return [read_content(join_location(source.image_root, str(item.path))) for item in items]


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_store_images(kind: str, compression: str, tmp_path: Path, root: Root) -> None:
    """The bytes come back, in row groups of two rows: as ranges of the file where nothing is compressed, else as cells."""
    table = write_images(tmp_path / "d/t.parquet", *KINDS[kind], compression=compression, row_group_size=2)
    source = make_source(root, table, image_column="image", text_column="text")
    items = list(source.items())
    suffix = "/0" if "lists" in kind else ""
    assert [(item.key, item.text) for item in items] == [(f"t.parquet:{row}{suffix}", f"t{row}") for row in range(5)]
    assert read_items(source, items) == IMAGES
    assert [item.content_digest for item in items] == [content_digest(image) for image in IMAGES]
    assert all(("+" in str(item.path)) == (compression == "none") for item in items)
    assert [item.path for item in items] == sorted(str(item.path) for item in items)


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_each_element_of_a_list_is_an_item(tmp_path: Path, root: Root, compression: str) -> None:
    """With the row's text. A missing image is a fault that names it; an image that repeats is found again."""
    low, middle, high = sorted(IMAGES[:3])  # headers of pages repeat the lowest and the highest value
    values = [[middle, low, high], [], None, [None, middle]]
    table = write_images(tmp_path / "t.parquet", pa.list_(pa.binary()), values, compression=compression)
    source = make_source(root, table, image_column="image", key_column="text")
    items = list(source.items())
    assert {item.key: item.fault for item in items} == {"t0/0": None, "t0/1": None, "t0/2": None, "t3/1": None} | dict.fromkeys(
        ["t1/0", "t2/0", "t3/0"], "the row has no image bytes"
    )
    assert read_items(source, [item for item in items if item.path]) == [middle, low, high, middle]
    assert {"+" in item.path for item in items if item.path} == {compression == "none"}


def test_a_path_without_bytes_is_a_fault(tmp_path: Path, root: Root) -> None:
    """Hugging Face writes such a row where it did not embed the file; the path is one of another machine."""
    table = write_images(tmp_path / "t.parquet", STRUCT, [{"bytes": None, "path": "/home/me/a.jpg"}])
    assert [item.fault for item in make_source(root, table, image_column="image").items()] == ["the row has no image bytes"]


def test_an_unchanged_table_is_not_read(tmp_path: Path, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file is read again, and only that one; the revision follows size and time."""
    tables = [write_images(tmp_path / f"{number}.parquet", pa.binary(), IMAGES) for number in range(2)]
    source = make_source(root, tmp_path / "*.parquet", image_column="image")
    first, revision = list(source.items()), source.compute_revision()
    read: list[str] = []
    plain_read = pq.ParquetFile.iter_batches

    def note(file: pq.ParquetFile, *args: Any, **options: Any) -> Any:
        read.append(",".join(options.get("columns") or []))
        return plain_read(file, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    again = make_source(root, tmp_path / "*.parquet", image_column="image")
    assert (list(again.items()), again.compute_revision()) == (first, revision)
    assert "image" not in read
    set_mtime(write_images(tables[1], pa.binary(), IMAGES[:3]), OLD_MTIME_NS + 1)
    changed = make_source(root, tmp_path / "*.parquet", image_column="image")
    assert len(list(changed.items())) == 8
    assert changed.compute_revision() != revision
    assert read.count("image") == 1


@pytest.mark.parametrize("limit", [contents.CELL_BATCH_BYTES, 10_000, 100])
def test_a_cell_is_read_from_small_and_large_row_groups(tmp_path: Path, root: Root, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group that is too large to keep is read in batches, forward or from its start again.

    A table that has changed gives an error, not other bytes.
    """
    monkeypatch.setattr(contents, "CELL_BATCH_BYTES", limit)
    images = [np.random.default_rng(number).bytes(2000) for number in range(40)]
    table = write_images(tmp_path / "t.parquet", pa.binary(), images, row_group_size=20)
    source = make_source(root, table, image_column="image")
    items = list(source.items())
    assert read_items(source, [*items[::-7], *items]) == [*images[::-7], *images]
    write_images(table, pa.binary(), images[:20])
    with pytest.raises(OSError, match="not what was listed"):
        read_items(source, items[-1:])


def test_a_damaged_table_is_an_error(tmp_path: Path, root: Root) -> None:
    """The message names the file; without checksums in pages a changed byte may go unseen until the content is compared."""
    table = write_images(tmp_path / "t.parquet", pa.binary(), IMAGES)
    content = bytearray(table.read_bytes())
    content[4:40] = bytes(36)
    table.write_bytes(bytes(content))
    with pytest.raises(InputError, match="the table cannot be read"):
        list(make_source(root, table, image_column="image").items())


def test_queries_may_hold_their_images(tmp_path: Path) -> None:
    """A table of queries is read like one of items, without listings of its own."""
    write_images(tmp_path / "q.parquet", *KINDS["Hugging Face"])
    queries = QueryFile(QueriesConfig(path=str(tmp_path / "q.parquet"), id_column="text", image_column="image"), None, "dataset")
    found = list(queries.queries())
    assert [item.key for item in found] == ["t0", "t1", "t2", "t3", "t4"]
    assert [read_content(join_location(tmp_path, str(item.path))) for item in found] == IMAGES


def test_a_table_behind_a_url_is_copied_and_its_images_are_read_from_the_copy(tmp_path: Path, root: Root) -> None:
    """The copy is listed once per version; keys name the file at its URL."""
    table = write_images(tmp_path / "t.parquet", *KINDS["binary"])
    server = RangeServer({"/data/t.parquet": table.read_bytes()})
    try:
        source = make_source(root, f"{server.url}/data/t.parquet", image_column="image")
        items = list(source.items())
        assert [item.key for item in items] == [f"t.parquet:{row}" for row in range(5)]
        assert read_items(source, items) == IMAGES
        assert list(make_source(root, f"{server.url}/data/t.parquet", image_column="image").items()) == items
        write_images(table, pa.binary(), IMAGES[3:])
        server.files["/data/t.parquet"] = table.read_bytes()
        changed = make_source(root, f"{server.url}/data/t.parquet", image_column="image")
        assert read_items(changed, list(changed.items())) == IMAGES[3:]
        assert changed.compute_revision() != source.compute_revision()
    finally:
        server.close()
