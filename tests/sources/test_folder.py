"""Image folders: labels, captions, metadata files, odd names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.configs.datasets import FolderDatasetConfig
from indexmill.storage.digests import item_id
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.folder import FolderSource, MetadataRow, join_metadata
from indexmill.tasks.sources.image_files import FileEntry, walk_files

Picture = Callable[[Path], Path]


def source(folder: Path, **settings: Any) -> FolderSource:
    return FolderSource(folder, FolderDatasetConfig(source="folder", path=str(folder), **settings))


def labels(folder: Path, **settings: Any) -> dict[str, str | None]:
    return {item.key: item.label for item in source(folder, **settings).items()}


def texts(folder: Path, **settings: Any) -> dict[str, str | None]:
    return {item.key: item.text for item in source(folder, **settings).items()}


# labels from folders


def test_the_first_folder_is_the_label(tmp_path: Path, picture: Picture) -> None:
    """At depth 1 the label is the first folder, however deep the image lies; an image right below the top has none."""
    for path in ("cat/a.png", "dog/puppies/b.png", "loose.png"):
        picture(tmp_path / path)
    assert labels(tmp_path) == {"cat/a.png": "cat", "dog/puppies/b.png": "dog", "loose.png": None}


def test_a_deeper_folder_can_be_the_label(tmp_path: Path, picture: Picture) -> None:
    """At depth 2 the label is the second folder, and an image above it has none."""
    for path in ("train/cat/a.png", "train/cat/old/b.png", "train/c.png"):
        picture(tmp_path / path)
    assert labels(tmp_path, label_depth=2) == {"train/c.png": None, "train/cat/a.png": "cat", "train/cat/old/b.png": "cat"}


def test_images_can_be_read_unlabelled(tmp_path: Path, picture: Picture) -> None:
    """With labels none, images of any depth are items without a label, and the source says that it has no labels."""
    for path in ("a.png", "x/y/b.png"):
        picture(tmp_path / path)
    assert labels(tmp_path, labels="none") == {"a.png": None, "x/y/b.png": None}
    assert not source(tmp_path, labels="none").labeled
    assert source(tmp_path).labeled


def test_items_carry_size_and_time_and_no_pairs(tmp_path: Path, picture: Picture) -> None:
    """An item has its file's path, size and modification time; a folder has no pairs."""
    path = picture(tmp_path / "cat/a.png")
    os.utime(path, ns=(5, 1_000_000_007))
    (item,) = source(tmp_path).items()
    assert (item.path, item.size, item.mtime_ns) == ("cat/a.png", path.stat().st_size, 1_000_000_007)
    assert list(source(tmp_path).pairs()) == []


# what is an image


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Png", "webp", "bmp", "GIF", "tif", "TIFF"])
def test_image_suffixes_count_in_any_case(tmp_path: Path, picture: Picture, suffix: str) -> None:
    """Each image suffix is recognised in lower, upper and mixed case."""
    picture(tmp_path / f"cat/a.{suffix}")
    assert list(labels(tmp_path)) == [f"cat/a.{suffix}"]


def test_other_files_and_hidden_names_are_passed_over(tmp_path: Path, picture: Picture) -> None:
    """Text files, hidden files and hidden folders are no items."""
    for path in ("cat/a.png", "cat/.b.png", ".thumbs/c.png", "cat/.old/d.png"):
        picture(tmp_path / path)
    (tmp_path / "cat/readme.txt").write_text("x")
    (tmp_path / "cat/png").write_text("x")
    assert list(labels(tmp_path)) == ["cat/a.png"]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path, picture: Picture) -> None:
    """A link to a file outside is that file; a link to a folder, also to one above, is passed over; one to nothing is an item to reject."""
    outside = picture(tmp_path / "outside/a.png")
    top = tmp_path / "top"
    picture(top / "cat/own.png")
    (top / "cat/linked.png").symlink_to(outside)
    (top / "cat/broken.png").symlink_to(tmp_path / "nothing.png")
    (top / "loop").symlink_to(top)
    (top / "other").symlink_to(outside.parent)
    sizes = {item.key: item.size for item in source(top).items()}
    assert sizes == {
        "cat/linked.png": outside.stat().st_size,
        "cat/own.png": outside.stat().st_size,
        "cat/broken.png": (top / "cat/broken.png").lstat().st_size,
    }


def test_paths_that_are_not_utf8_become_items_without_a_path(tmp_path: Path, picture: Picture) -> None:
    r"""A byte that is not UTF-8 stands as \xNN in a key that begins with a slash, so that a file of that spelling keeps its own key."""
    picture(tmp_path / "cat/plain.png")
    picture(tmp_path / r"cat/caf\xe9.png")
    try:
        picture(Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/caf\xe9.png")))
        picture(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xffdog/b\\.png")))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    items = list(source(tmp_path).items())
    assert {item.key: (item.label, item.path) for item in items} == {
        "cat/plain.png": ("cat", "cat/plain.png"),
        r"cat/caf\xe9.png": ("cat", r"cat/caf\xe9.png"),
        r"/cat/caf\xe9.png": ("cat", None),
        r"/\xffdog/b\\.png": (r"\xffdog", None),
    }
    assert pa.array([item.key for item in items], pa.string()).null_count == 0
    assert len({item_id(item.key) for item in items}) == 4
    assert len(source(tmp_path).compute_revision()) == 64


def test_odd_but_valid_names_are_kept_as_they_are(tmp_path: Path, picture: Picture) -> None:
    """Quotes, brackets, commas, line breaks and letters of any script stay in key and path."""
    names = ['it\'s [1], "2".png', "a\nb.png", "日本.png", "e\u0301.png", "\\x41.png"]
    for name in names:
        picture(tmp_path / "cat" / name)
    assert {item.path for item in source(tmp_path).items()} == {f"cat/{name}" for name in names}


def test_files_come_ordered_by_the_parts_of_their_path(tmp_path: Path, picture: Picture) -> None:
    """`a/z.png` comes before `a b/a.png` and `a.png`: order goes by folder names first, by code point."""
    for path in ("a.png", "a b/a.png", "a/z.png", "a/é.png", "B.png", "b.png"):
        picture(tmp_path / path)
    expected = ["B.png", "a/z.png", "a/é.png", "a b/a.png", "a.png", "b.png"]
    assert [item.key for item in source(tmp_path, labels="none").items()] == expected


def test_walking_holds_one_folder_of_a_level_at_a_time(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is read only once the walk gets to it."""
    for path in ("a/1.png", "b/1.png"):
        picture(tmp_path / path)
    read: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(
        "indexmill.tasks.sources.image_files.os",
        SimpleNamespace(scandir=lambda folder: (read.append(Path(folder).name), scandir(folder))[1]),
    )
    files = walk_files(tmp_path, lambda name: True)
    assert next(files).path == "a/1.png"
    assert read == [tmp_path.name, "a"]


# metadata files


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_metadata_gives_labels_and_captions(tmp_path: Path, picture: Picture, form: str) -> None:
    """Each of the three formats gives the same labels and captions; an image without a row is an item with neither."""
    for path in ("a.png", "sub/b.png", "c.png"):
        picture(tmp_path / path)
    rows = [
        {"file_name": "a.png", "label": "07", "text": 'a "red", square'},
        {"file_name": "sub/b.png", "label": "2020-01-01", "text": "two\nlines"},
    ]
    match form:
        case "csv":
            content = 'file_name,label,text\na.png,07,"a ""red"", square"\nsub/b.png,2020-01-01,"two\nlines"\n'
            (tmp_path / "metadata.csv").write_text(content)
        case "jsonl":
            (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    items = source(tmp_path, labels="metadata", captions="metadata").items()
    assert [(item.key, item.label, item.text) for item in items] == [
        ("a.png", "07", 'a "red", square'),
        ("c.png", None, None),
        ("sub/b.png", "2020-01-01", "two\nlines"),
    ]


def test_metadata_files_may_stand_in_several_folders(tmp_path: Path, picture: Picture) -> None:
    """File names start from the folder of the metadata file, in whatever format it is."""
    for path in ("train/a.png", "test/deep/a.png", "x[1]*/a.png"):
        picture(tmp_path / path)
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n./a.png,one\n")
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "deep/a.png", "label": 2}\n')
    (tmp_path / "x[1]*/metadata.csv").write_text("label,file_name\nthree,a.png\n")
    assert labels(tmp_path, labels="metadata") == {"test/deep/a.png": "2", "train/a.png": "one", "x[1]*/a.png": "three"}


def test_the_columns_can_be_named(tmp_path: Path, picture: Picture) -> None:
    """label_column and caption_column choose what is read; folder labels and metadata captions go together."""
    picture(tmp_path / "cat/a.png")
    (tmp_path / "metadata.csv").write_text("file_name,kind,words,text\ncat/a.png,feline,a cat,no\n")
    both = source(tmp_path, labels="metadata", label_column="kind", captions="metadata", caption_column="words")
    assert [(item.label, item.text) for item in both.items()] == [("feline", "a cat")]
    captions = source(tmp_path, captions="metadata", caption_column="words")
    assert [(item.label, item.text) for item in captions.items()] == [("cat", "a cat")]


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "/etc/a.png", ".hidden.png", "linked/a.png"])
def test_a_row_without_an_image_is_an_item_without_a_path(tmp_path: Path, picture: Picture, name: str) -> None:
    """A row whose image is not there, leads out of the folder, or is passed over keeps its key and label, but has nothing to open."""
    picture(tmp_path / "secret.png")
    top = tmp_path / "top"
    picture(top / "a.png")
    picture(top / ".hidden.png")
    (top / "linked").symlink_to(tmp_path)
    (top / "metadata.csv").write_text(f"file_name,label\n{name},x\na.png,y\n")
    items = {item.key: item for item in source(top, labels="metadata", captions="text").items()}
    assert items.keys() == {name, "a.png"}
    assert (items[name].label, items[name].path) == ("x", None)
    assert (items["a.png"].label, items["a.png"].path) == ("y", "a.png")


def test_a_row_without_a_file_name_goes_by_its_metadata_file(tmp_path: Path, picture: Picture) -> None:
    """A row with an empty file name is not lost: its key is the metadata file, and it has no path."""
    picture(tmp_path / "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text("file_name,label\na.png,y\n,x\n")
    items = [(item.key, item.label, item.path) for item in source(tmp_path, labels="metadata").items()]
    assert items == [("sub/a.png", "y", "sub/a.png"), ("sub/metadata.csv", "x", None)]


def test_an_image_named_twice_is_listed_twice(tmp_path: Path, picture: Picture) -> None:
    """Two rows for one image are two items of one key, which ingest refuses; neither row wins silently."""
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,x\na.png,y\n")
    assert sorted((item.key, item.label) for item in source(tmp_path, labels="metadata").items()) == [("a.png", "x"), ("a.png", "y")]


def test_two_metadata_files_in_one_folder_are_refused(tmp_path: Path, picture: Picture) -> None:
    """The error names the folder and both files, though a folder's files stand between them in path order."""
    for path in ("sub/a.png", "sub/metadata.d/b.png"):
        picture(tmp_path / path)
    (tmp_path / "sub/metadata.csv").write_text("file_name,label\na.png,x\n")
    (tmp_path / "sub/metadata.d/metadata.csv").write_text("file_name,label\nb.png,x\n")
    (tmp_path / "sub/metadata.jsonl").write_text('{"file_name": "a.png", "label": "x"}\n')
    with pytest.raises(InputError) as refused:
        list(source(tmp_path, labels="metadata").items())
    assert refused.value.got == "metadata.csv, metadata.jsonl"
    assert refused.value.where == str(tmp_path / "sub")


def test_a_missing_metadata_file_is_refused(tmp_path: Path, picture: Picture) -> None:
    """Without any metadata file, the error names those that would do."""
    picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="no metadata file") as refused:
        list(source(tmp_path, labels="metadata").items())
    assert refused.value.expected == "metadata.csv or metadata.jsonl or metadata.parquet"


def test_a_missing_metadata_column_is_refused(tmp_path: Path, picture: Picture) -> None:
    """The error names the file, the columns that exist, and the one that was probably meant."""
    picture(tmp_path / "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text("file_name,Labels\na.png,x\n")
    with pytest.raises(InputError, match="no column 'label'") as refused:
        list(source(tmp_path, labels="metadata").items())
    assert refused.value.where == f"dataset.label_column, {tmp_path / 'sub/metadata.csv'}"
    assert refused.value.expected == "one of its columns: file_name, Labels"
    assert "did you mean 'Labels'?" in refused.value.next_step


def test_metadata_without_file_names_is_refused(tmp_path: Path, picture: Picture) -> None:
    """The column file_name is always needed."""
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png", "label": "x"}\n')
    with pytest.raises(InputError, match="no column 'file_name'"):
        list(source(tmp_path, labels="metadata").items())


def test_metadata_is_ignored_where_the_config_does_not_read_it(tmp_path: Path, picture: Picture) -> None:
    """With folder labels and no captions, even a damaged metadata file neither stops the listing nor counts in the revision."""
    picture(tmp_path / "cat/a.png")
    before = source(tmp_path).compute_revision()
    (tmp_path / "metadata.csv").write_bytes(b"\xff\n1,2\n")
    assert labels(tmp_path) == {"cat/a.png": "cat"}
    assert source(tmp_path).compute_revision() == before


NAMES = st.lists(st.sampled_from(["a", "b", "a b", "a.", "é", "B", "a!", "~"]), min_size=1, max_size=3).map("/".join)


@given(st.sets(NAMES), st.sets(NAMES))
def test_joining_equals_looking_up(images: set[str], rows: set[str]) -> None:
    """Joining two ordered streams gives every path once, with the image and the row that are there, as a look-up would."""

    def ordered(paths: set[str]) -> list[str]:
        return sorted(paths, key=lambda path: path.split("/"))

    pairs = join_metadata((FileEntry(path, 1, 1) for path in ordered(images)), (MetadataRow(path, None, None) for path in ordered(rows)))
    seen = [(image.path if image else None, row.path if row else None) for image, row in pairs]
    assert sorted(seen, key=str) == sorted(((p if p in images else None, p if p in rows else None) for p in images | rows), key=str)


def test_duckdb_orders_paths_as_the_walk_does(tmp_path: Path, picture: Picture) -> None:
    """Metadata in any order meets its images where names sort differently as whole paths, and by script."""
    names = ["a/z.png", "a b/a.png", "a.png", "a-b/a.png", "B.png", "é.png", "日.png", "\U0001f600.png", "\ufb01.png"]
    for name in names:
        picture(tmp_path / name)
    lines = "".join(f"{name},{number}\n" for number, name in reversed(list(enumerate(names))))
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + lines)
    items = source(tmp_path, labels="metadata").items()
    assert sorted((item.path, item.label) for item in items) == sorted((name, str(number)) for number, name in enumerate(names))


# caption files


def test_text_files_beside_images_are_captions(tmp_path: Path, picture: Picture) -> None:
    """The .txt of the same stem is the caption, without a byte-order mark; an image without one has no caption."""
    for path in ("cat/a.png", "cat/b.png", "cat/two.dots.png"):
        picture(tmp_path / path)
    (tmp_path / "cat/a.txt").write_bytes("\ufeffein Kätzchen\n".encode())
    (tmp_path / "cat/two.dots.txt").write_text("dots")
    (tmp_path / "cat/alone.txt").write_text("no image")
    assert texts(tmp_path, captions="text") == {"cat/a.png": "ein Kätzchen\n", "cat/b.png": None, "cat/two.dots.png": "dots"}
    assert set(texts(tmp_path).values()) == {None}


def test_captions_that_are_not_utf8_are_empty(tmp_path: Path, picture: Picture) -> None:
    """A caption in another encoding becomes an empty text, which validation rejects; it is not guessed at."""
    picture(tmp_path / "cat/a.png")
    (tmp_path / "cat/a.txt").write_bytes(b"caf\xe9")
    assert texts(tmp_path, captions="text") == {"cat/a.png": ""}


# revision


def test_the_revision_covers_what_is_read(tmp_path: Path, picture: Picture) -> None:
    """The revision changes with an image, a metadata file or a caption file that is read, and with nothing else."""
    image = picture(tmp_path / "cat/a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/a.png,x\n")
    (tmp_path / "cat/a.txt").write_text("one")
    settings = {"labels": "metadata", "captions": "text"}
    seen = [source(tmp_path, **settings).compute_revision()]
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/a.png,yy\n")
    seen.append(source(tmp_path, **settings).compute_revision())
    (tmp_path / "cat/a.txt").write_text("three")
    seen.append(source(tmp_path, **settings).compute_revision())
    os.utime(image, ns=(1, 1))
    seen.append(source(tmp_path, **settings).compute_revision())
    picture(tmp_path / "cat/b.png")
    seen.append(source(tmp_path, **settings).compute_revision())
    assert len(set(seen)) == 5
    (tmp_path / "notes.md").write_text("x")
    assert source(tmp_path, **settings).compute_revision() == seen[-1]


# a folder that is not there


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The error says what is at the path, and tells a file from nothing."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="does not exist") as refused:
        source(tmp_path / "none")
    assert refused.value.got == f"nothing at {tmp_path / 'none'}"
    with pytest.raises(InputError) as refused:
        source(tmp_path / "file")
    assert refused.value.got == "a file"


def test_the_demo_folder_says_what_writes_it(root: Root) -> None:
    """{root} stands for the root directory, and a missing demo folder names the command that writes it."""
    config = FolderDatasetConfig(source="folder", path="{root}/sources/digits/1")
    with pytest.raises(InputError) as refused:
        open_source(config, root)
    assert refused.value.next_step == "run indexmill demo, which writes it"
    assert str(root.path) in refused.value.where


def test_caltech101_is_read_whole(real_data: Path) -> None:
    """The Caltech-101 sample has 25 images in each of 102 folders."""
    listed = labels(real_data / "caltech101/101_ObjectCategories")
    assert len(listed) == 2550
    assert len(set(listed.values())) == 102
    assert sum(label == "Faces_easy" for label in listed.values()) == 25
