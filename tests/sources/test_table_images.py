"""Tables of images: paths and captions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexmill.storage.contents import read_content_digest
from indexmill.storage.root import Root
from tests.sources.table_files import WriteImage, make_source, write_table


def test_image_paths_are_relative_to_the_table(tmp_path: Path, root: Root, write_image: WriteImage) -> None:
    """An item's path is relative to the image root. The text column is the caption, which may be null."""
    image = write_image(tmp_path / "data/one/img/a.png")
    write_image(tmp_path / "data/b.png")
    write_table(tmp_path / "data/one/t.csv", [{"f": "img/a.png", "t": "red", "k": "x"}, {"f": "../b.png", "t": None, "k": "y"}])
    table = make_source(root, f"{tmp_path}/data/*/t.csv", image_column="f", text_column="t", label_column="k")
    assert (table.modality, table.image_root) == ("image", tmp_path / "data")
    assert [(item.key, item.path, item.text, item.label) for item in table.items()] == [
        ("one/t.csv:0", "one/img/a.png", "red", "x"),
        ("one/t.csv:1", "b.png", None, "y"),
    ]
    first = next(iter(table.items()))
    assert (first.size, first.mtime_ns) == (image.stat().st_size, image.stat().st_mtime_ns)


@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "sub/../../out.png", "", None, ".", "a\0.png"])
def test_a_path_out_of_the_folder_is_not_used(tmp_path: Path, root: Root, write_image: WriteImage, name: str | None) -> None:
    """Such a path, an empty one and one with a null byte give an item without a path."""
    write_image(tmp_path / "out.png")
    write_table(tmp_path / "data/t.jsonl", [{"f": name, "id": "k"}])
    items = list(make_source(root, tmp_path / "data/t.jsonl", image_column="f", key_column="id").items())
    assert [(item.key, item.path, item.size) for item in items] == [("k", None, None)]


def test_an_absolute_path_inside_the_folder_is_used(tmp_path: Path, root: Root, write_image: WriteImage) -> None:
    """An absolute path below the table's folder is the same as the relative one."""
    image = write_image(tmp_path / "data/a.png")
    write_table(tmp_path / "data/t.jsonl", [{"f": str(image)}])
    assert [item.path for item in make_source(root, tmp_path / "data/t.jsonl", image_column="f").items()] == ["a.png"]


def test_a_missing_image_keeps_its_path(tmp_path: Path, root: Root) -> None:
    """The item has neither size nor time, and validation cannot open it."""
    write_table(tmp_path / "t.jsonl", [{"f": "gone.png"}])
    assert [(item.path, item.size, item.mtime_ns) for item in make_source(root, tmp_path / "t.jsonl", image_column="f").items()] == [
        ("gone.png", None, None)
    ]


def test_the_revision_covers_tables_and_images(tmp_path: Path, root: Root, write_image: WriteImage) -> None:
    """The revision changes with a changed or new table file and with a listed image, and with nothing else."""
    write_table(tmp_path / "a.jsonl", [{"f": "a.png"}])
    pattern = f"{tmp_path}/*.jsonl"
    revisions = [make_source(root, pattern, image_column="f").compute_revision()]
    image = write_image(tmp_path / "a.png")
    revisions.append(make_source(root, pattern, image_column="f").compute_revision())
    os.utime(image, ns=(1, 1))
    revisions.append(make_source(root, pattern, image_column="f").compute_revision())
    write_table(tmp_path / "b.jsonl", [{"f": "a.png"}])
    revisions.append(make_source(root, pattern, image_column="f").compute_revision())
    assert len(set(revisions)) == 4
    write_image(tmp_path / "unlisted.png")
    assert make_source(root, pattern, image_column="f").compute_revision() == revisions[-1]


def test_image_names_of_other_systems_are_found(tmp_path: Path, root: Root, write_image: WriteImage) -> None:
    """Backslashes, a slash at the start and another Unicode form, as in metadata files; never a file outside."""
    for name in ("img/a.png", "img/cafe\u0301.png"):
        write_image(tmp_path / "top" / name)
    write_image(tmp_path / "outside.png")
    (tmp_path / "top/t.csv").write_text("i\nimg\\a.png\n/img/a.png\nimg/caf\u00e9.png\n..\\outside.png\n", encoding="utf-8")
    paths = [item.path for item in make_source(root, tmp_path / "top/t.csv", image_column="i").items()]
    assert paths == ["img/a.png", "img/a.png", "img/cafe\u0301.png", "..\\outside.png"]


def test_pipes_devices_and_long_names_are_no_images(tmp_path: Path, root: Root, write_image: WriteImage) -> None:
    """Reading a pipe or a device would never end; validation rejects what has no digest."""
    write_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    names = ["a.png", "pipe.png", "zero.png", "x" * 300 + ".png", ".", "a.png/b.png"]
    path = write_table(tmp_path / "t.jsonl", [{"f": name} for name in names])
    outcome = [item.path for item in make_source(root, path, image_column="f").items()]
    assert [read_content_digest(tmp_path, name) is not None for name in outcome] == [True, *[False] * 5]
