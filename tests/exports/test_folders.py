"""Exports in files: a folder takes the place of another at once, and only that of an export; object stores."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import pyarrow.parquet as pq
import pytest

from indexmill.storage import atomic
from indexmill.storage.errors import InputError
from indexmill.storage.exports import ExportFolder, open_export_files
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.root import Root
from tests.exports.published import Nights

DESCRIPTION = {"format": "parquet", "snapshot_id": "00001-a"}


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: ExportFolder, content: str) -> None:
    with folder.replace(DESCRIPTION | {"snapshot_id": content}) as path:
        (path / "one").write_text(content)
        (path / "two").write_text(content)


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Nothing of the old one is left in it or beside it."""
    folder = ExportFolder(tmp_path / "a" / "out")
    assert folder.read_description() is None
    with folder.replace(DESCRIPTION) as path:
        (path / "old").write_text("old")
    write(folder, "new")
    assert list_names(tmp_path / "a" / "out") == ["_export.json", "one", "two"]
    assert list_names(tmp_path / "a") == ["out"]
    description = folder.read_description()
    assert description is not None and description["snapshot_id"] == "new"


@pytest.mark.parametrize("can_exchange", [True, False])
def test_readers_of_an_open_folder_see_one_content(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that opened the folder finds the same snapshot in all its files, or none any more."""
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    folder = ExportFolder(tmp_path / "out")
    write(folder, "0")
    is_over, contents = threading.Event(), list[set[str]]()

    def read() -> None:
        while not is_over.is_set():
            try:
                handle = os.open(tmp_path / "out", os.O_RDONLY)
            except FileNotFoundError:
                assert not can_exchange  # with an exchange there is always one
                continue
            try:
                contents.append({read_at(handle, name) for name in ("one", "two")})
            except FileNotFoundError:
                pass  # it was replaced and removed
            finally:
                os.close(handle)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 40):
        write(folder, str(number))
    is_over.set()
    reader.join()
    assert contents and all(len(names) == 1 for names in contents)
    assert (tmp_path / "out" / "one").read_text() == "39" and list_names(tmp_path) == ["out"]


def read_at(folder: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder)) as file:
        return file.read()


def test_a_folder_that_is_no_export_is_not_replaced(tmp_path: Path) -> None:
    """Neither are a file, and a folder with another `_export.json`; an empty folder is."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="must not be replaced"):
            write(ExportFolder(tmp_path / name), "x")
    assert (tmp_path / "photos" / "one.jpg").read_text() == (tmp_path / "file").read_text() == "precious"
    (tmp_path / "photos" / "_export.json").write_text("{}")
    with pytest.raises(InputError, match="must not be replaced"):
        write(ExportFolder(tmp_path / "photos"), "x")
    (tmp_path / "empty").mkdir()
    write(ExportFolder(tmp_path / "empty"), "x")


def test_the_export_of_another_index_is_not_replaced(tmp_path: Path) -> None:
    """Two pipelines with the same target would replace each other's export every night."""
    write(ExportFolder(tmp_path / "out"), "one")
    with pytest.raises(InputError, match="another index"), ExportFolder(tmp_path / "out").replace(DESCRIPTION | {"name": "other"}):
        pass
    assert (tmp_path / "out" / "one").read_text() == "one"


def test_an_export_in_another_format_is_not_replaced(published: Nights, tmp_path: Path) -> None:
    """Neither by files, nor by a table in the same directory, which the next export in files would remove."""
    target = tmp_path / "out"
    published.export(target, "parquet")
    before = list_names(target)
    with pytest.raises(InputError, match="in another format") as caught:
        published.export(target, "npy")
    assert (caught.value.got, caught.value.where) == ("parquet", str(target)) and "choose another directory" in caught.value.next_step
    for export_format in ("lancedb", "qdrant"):
        with pytest.raises(InputError, match="an export in files is there"):
            published.export(target, export_format)
    assert list_names(target) == before and published.export(target, "parquet").state == "unchanged"


def test_a_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    """Below /proc, where nobody may create a folder, and below a file."""
    (tmp_path / "file").write_text("in the way")
    for target in (Path("/proc/x"), tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="cannot be written") as caught:
            write(ExportFolder(target), "x")
        assert caught.value.where == str(target) and caught.value.got and caught.value.next_step


def test_an_export_that_is_killed_leaves_the_last_one(tmp_path: Path) -> None:
    """SIGKILL while files are written; the next export removes what it left."""
    folder = ExportFolder(tmp_path / "out")
    write(folder, "old")
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path / "out",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list_names(tmp_path) == [".out.part", "out"] and (tmp_path / "out" / "one").read_text() == "old"
    write(folder, "new")
    assert list_names(tmp_path) == ["out"] and (tmp_path / "out" / "one").read_text() == "new"


def write_and_die(target: Path) -> None:
    with ExportFolder(target).replace(DESCRIPTION) as path:
        (path / "one").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_while_writing_leaves_the_last_one(nights: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing beside it."""
    nights.publish()
    nights.export(tmp_path / "out", "npy")
    before = (tmp_path / "out" / "_export.json").read_bytes()
    nights.publish()

    def fail(*arguments: Any, **options: Any) -> None:
        raise InputError("no room")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no room"):
        patch.setattr("indexmill.tasks.exports.npy._fill_vectors", fail)
        nights.export(tmp_path / "out", "npy")
    assert (tmp_path / "out" / "_export.json").read_bytes() == before and "out" in list_names(tmp_path)
    assert ".out.part" not in list_names(tmp_path)
    nights.export(tmp_path / "out", "npy")
    assert (tmp_path / "out" / "_export.json").read_bytes() != before


def test_lists_that_were_merged_on_disk_are_found_after_the_rename(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index refers to the final path of its lists; the neighbors are those of exact search when all lists are visited."""
    monkeypatch.setattr("indexmill.tasks.exports.faiss.MAX_MEMORY", 1)
    nights = Nights(root, factory="IVF8,Flat")
    nights.publish()
    nights.export(tmp_path / "out", "faiss")
    assert json.loads((tmp_path / "out" / "_export.json").read_text())["lists"] == "merged.ivfdata"
    index = faiss.read_index(str(tmp_path / "out" / "merged.faiss"))
    index.nprobe = 8
    queries = nights.draw(10)
    assert index.search(queries, 10)[1].tolist() == nights.find_neighbors(queries)


@pytest.mark.slow
def test_an_object_store_has_the_files_of_the_snapshot_that_the_description_names(
    bucket_url: str, nights: Nights, get_target: Callable[[str], str]
) -> None:
    """The export before stays, and older ones are removed."""
    url, client = f"{bucket_url}/exports", ObjectClient(f"{bucket_url}/exports")
    folders = []
    for _ in range(3):
        nights.insert(1)
        manifest = nights.publish()
        assert nights.export(url, "parquet").state == "exported"
        assert nights.export(url, "parquet").state == "unchanged"
        folders.append(f"parquet-{manifest.snapshot_id}")
        assert (open_export_files(url, nights.root).read_description() or {})["folder"] == folders[-1]
    assert {info.key.partition("/")[0] for info in client.list()} == {"_export.json", *folders[1:]}
    content = client.read(f"{folders[-1]}/part-00000.parquet")
    assert content is not None and len(pq.read_table(io.BytesIO(content.data))) == 303


@pytest.mark.slow
def test_lancedb_writes_to_an_object_store(bucket_url: str, nights: Nights) -> None:
    """With the credentials and the endpoint in the environment, as for a root."""
    import lancedb

    nights.publish()
    nights.export(f"{bucket_url}/lance", "lancedb")
    nights.insert(1)
    nights.publish()
    assert nights.export(f"{bucket_url}/lance", "lancedb").written == 1
    table = lancedb.connect(f"{bucket_url}/lance", storage_options={"allow_http": "true"}).open_table("drawn_vectors")
    assert table.count_rows() == 301
