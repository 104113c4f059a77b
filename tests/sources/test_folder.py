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

WriteImage = Callable[[Path], Path]


def make_source(folder: Path, **settings: Any) -> FolderSource:
    return FolderSource(folder, FolderDatasetConfig(source="folder", path=str(folder), **settings))


def list_labels(folder: Path, **settings: Any) -> dict[str, str | None]:
    return {item.key: item.label for item in make_source(folder, **settings).items()}


def list_captions(folder: Path, **settings: Any) -> dict[str, str | None]:
    return {item.key: item.text for item in make_source(folder, **settings).items()}


# labels from folders


def test_the_first_folder_is_the_label(tmp_path: Path, write_image: WriteImage) -> None:
    """At depth 1 the label is the first folder, however deep the image is; an image directly in the top folder has none."""
    for path in ("cat/a.png", "dog/puppies/b.png", "loose.png"):
        write_image(tmp_path / path)
    assert list_labels(tmp_path) == {"cat/a.png": "cat", "dog/puppies/b.png": "dog", "loose.png": None}


def test_a_deeper_folder_can_be_the_label(tmp_path: Path, write_image: WriteImage) -> None:
    """At depth 2 the label is the second folder, and an image above it has none."""
    for path in ("train/cat/a.png", "train/cat/old/b.png", "train/c.png"):
        write_image(tmp_path / path)
    assert list_labels(tmp_path, label_depth=2) == {"train/c.png": None, "train/cat/a.png": "cat", "train/cat/old/b.png": "cat"}


def test_images_can_be_read_without_labels(tmp_path: Path, write_image: WriteImage) -> None:
    """With labels none, images at any depth are items without a label, and the source is not labeled."""
    for path in ("a.png", "x/y/b.png"):
        write_image(tmp_path / path)
    assert list_labels(tmp_path, labels="none") == {"a.png": None, "x/y/b.png": None}
    assert not make_source(tmp_path, labels="none").labeled
    assert make_source(tmp_path).labeled


def test_items_have_size_and_time_and_there_are_no_pairs(tmp_path: Path, write_image: WriteImage) -> None:
    """An item has its file's path, size and modification time; a folder has no pairs."""
    path = write_image(tmp_path / "cat/a.png")
    os.utime(path, ns=(5, 1_000_000_007))
    (item,) = make_source(tmp_path).items()
    assert (item.path, item.size, item.mtime_ns) == ("cat/a.png", path.stat().st_size, 1_000_000_007)
    assert list(make_source(tmp_path).pairs()) == []


# what is an image


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "Png", "webp", "bmp", "GIF", "tif", "TIFF"])
def test_image_suffixes_count_in_any_case(tmp_path: Path, write_image: WriteImage, suffix: str) -> None:
    """Each image suffix is recognized in lower, upper and mixed case."""
    write_image(tmp_path / f"cat/a.{suffix}")
    assert list(list_labels(tmp_path)) == [f"cat/a.{suffix}"]


def test_other_files_and_hidden_names_are_skipped(tmp_path: Path, write_image: WriteImage) -> None:
    """Text files, hidden files and hidden folders are not items."""
    for path in ("cat/a.png", "cat/.b.png", ".thumbs/c.png", "cat/.old/d.png"):
        write_image(tmp_path / path)
    (tmp_path / "cat/readme.txt").write_text("x")
    (tmp_path / "cat/png").write_text("x")
    assert list(list_labels(tmp_path)) == ["cat/a.png"]


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path, write_image: WriteImage) -> None:
    """A link to an outside file is listed, a link to any folder is skipped, and a broken link becomes an item to reject."""
    outside = write_image(tmp_path / "outside/a.png")
    top = tmp_path / "top"
    write_image(top / "cat/own.png")
    (top / "cat/linked.png").symlink_to(outside)
    (top / "cat/broken.png").symlink_to(tmp_path / "nothing.png")
    (top / "loop").symlink_to(top)
    (top / "other").symlink_to(outside.parent)
    sizes = {item.key: item.size for item in make_source(top).items()}
    assert sizes == {
        "cat/linked.png": outside.stat().st_size,
        "cat/own.png": outside.stat().st_size,
        "cat/broken.png": (top / "cat/broken.png").lstat().st_size,
    }


def test_paths_that_are_not_utf8_become_items_without_a_path(tmp_path: Path, write_image: WriteImage) -> None:
    r"""A key with invalid UTF-8 has \xNN and starts with a slash, so a file with that literal name keeps its own key."""
    write_image(tmp_path / "cat/plain.png")
    write_image(tmp_path / r"cat/caf\xe9.png")
    try:
        write_image(Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/caf\xe9.png")))
        write_image(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xffdog/b\\.png")))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    items = list(make_source(tmp_path).items())
    assert {item.key: (item.label, item.path) for item in items} == {
        "cat/plain.png": ("cat", "cat/plain.png"),
        r"cat/caf\xe9.png": ("cat", r"cat/caf\xe9.png"),
        r"/cat/caf\xe9.png": ("cat", None),
        r"/\xffdog/b\\.png": (r"\xffdog", None),
    }
    assert pa.array([item.key for item in items], pa.string()).null_count == 0
    assert len({item_id(item.key) for item in items}) == 4
    assert len(make_source(tmp_path).compute_revision()) == 64


def test_unusual_but_valid_names_are_kept(tmp_path: Path, write_image: WriteImage) -> None:
    """Quotes, brackets, commas, line breaks and letters of any script stay in key and path."""
    names = ['it\'s [1], "2".png', "a\nb.png", "日本.png", "e\u0301.png", "\\x41.png"]
    for name in names:
        write_image(tmp_path / "cat" / name)
    assert {item.path for item in make_source(tmp_path).items()} == {f"cat/{name}" for name in names}


def test_files_are_ordered_by_the_parts_of_their_path(tmp_path: Path, write_image: WriteImage) -> None:
    """`a/z.png` comes before `a b/a.png` and `a.png`: folder names count first, by code point."""
    for path in ("a.png", "a b/a.png", "a/z.png", "a/é.png", "B.png", "b.png"):
        write_image(tmp_path / path)
    expected = ["B.png", "a/z.png", "a/é.png", "a b/a.png", "a.png", "b.png"]
    assert [item.key for item in make_source(tmp_path, labels="none").items()] == expected


def test_walking_reads_one_folder_at_a_time(tmp_path: Path, write_image: WriteImage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is read only when the walk reaches it."""
    for path in ("a/1.png", "b/1.png"):
        write_image(tmp_path / path)
    folders_read: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(
        "indexmill.tasks.sources.image_files.os",
        SimpleNamespace(scandir=lambda folder: (folders_read.append(Path(folder).name), scandir(folder))[1]),
    )
    files = walk_files(tmp_path, lambda name: True)
    assert next(files).path == "a/1.png"
    assert folders_read == [tmp_path.name, "a"]


# metadata files


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_metadata_gives_labels_and_captions(tmp_path: Path, write_image: WriteImage, form: str) -> None:
    """Each of the three formats gives the same labels and captions; an image without a row is an item with neither."""
    for path in ("a.png", "sub/b.png", "c.png"):
        write_image(tmp_path / path)
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
    items = make_source(tmp_path, labels="metadata", captions="metadata").items()
    assert [(item.key, item.label, item.text) for item in items] == [
        ("a.png", "07", 'a "red", square'),
        ("c.png", None, None),
        ("sub/b.png", "2020-01-01", "two\nlines"),
    ]


def test_several_folders_may_have_metadata_files(tmp_path: Path, write_image: WriteImage) -> None:
    """File names are relative to the folder of the metadata file, in every format."""
    for path in ("train/a.png", "test/deep/a.png", "x[1]*/a.png"):
        write_image(tmp_path / path)
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n./a.png,one\n")
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "deep/a.png", "label": 2}\n')
    (tmp_path / "x[1]*/metadata.csv").write_text("label,file_name\nthree,a.png\n")
    assert list_labels(tmp_path, labels="metadata") == {"test/deep/a.png": "2", "train/a.png": "one", "x[1]*/a.png": "three"}


def test_the_columns_can_be_configured(tmp_path: Path, write_image: WriteImage) -> None:
    """label_column and caption_column select the columns; folder labels and metadata captions can be combined."""
    write_image(tmp_path / "cat/a.png")
    (tmp_path / "metadata.csv").write_text("file_name,kind,words,text\ncat/a.png,feline,a cat,no\n")
    both = make_source(tmp_path, labels="metadata", label_column="kind", captions="metadata", caption_column="words")
    assert [(item.label, item.text) for item in both.items()] == [("feline", "a cat")]
    captions = make_source(tmp_path, captions="metadata", caption_column="words")
    assert [(item.label, item.text) for item in captions.items()] == [("cat", "a cat")]


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "/etc/a.png", ".hidden.png", "linked/a.png"])
def test_a_row_without_an_image_is_an_item_without_a_path(tmp_path: Path, write_image: WriteImage, name: str) -> None:
    """A row whose image is missing, outside the folder or skipped keeps its key and label, but has no path."""
    write_image(tmp_path / "secret.png")
    top = tmp_path / "top"
    write_image(top / "a.png")
    write_image(top / ".hidden.png")
    (top / "linked").symlink_to(tmp_path)
    (top / "metadata.csv").write_text(f"file_name,label\n{name},x\na.png,y\n")
    items = {item.key: item for item in make_source(top, labels="metadata", captions="text").items()}
    assert items.keys() == {name, "a.png"}
    assert (items[name].label, items[name].path) == ("x", None)
    assert (items["a.png"].label, items["a.png"].path) == ("y", "a.png")


def test_a_row_without_a_file_name_gets_the_path_of_its_metadata_file(tmp_path: Path, write_image: WriteImage) -> None:
    """A row with an empty file name is not lost: its key is the metadata file, and it has no path."""
    write_image(tmp_path / "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text("file_name,label\na.png,y\n,x\n")
    items = [(item.key, item.label, item.path) for item in make_source(tmp_path, labels="metadata").items()]
    assert items == [("sub/a.png", "y", "sub/a.png"), ("sub/metadata.csv", "x", None)]


def test_an_image_with_two_rows_is_listed_twice(tmp_path: Path, write_image: WriteImage) -> None:
    """Two rows for one image are two items with one key, which ingest refuses; neither row wins silently."""
    write_image(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,x\na.png,y\n")
    assert sorted((item.key, item.label) for item in make_source(tmp_path, labels="metadata").items()) == [("a.png", "x"), ("a.png", "y")]


def test_two_metadata_files_in_one_folder_are_refused(tmp_path: Path, write_image: WriteImage) -> None:
    """The error names the folder and both files, although other files come between them in path order."""
    for path in ("sub/a.png", "sub/metadata.d/b.png"):
        write_image(tmp_path / path)
    (tmp_path / "sub/metadata.csv").write_text("file_name,label\na.png,x\n")
    (tmp_path / "sub/metadata.d/metadata.csv").write_text("file_name,label\nb.png,x\n")
    (tmp_path / "sub/metadata.jsonl").write_text('{"file_name": "a.png", "label": "x"}\n')
    with pytest.raises(InputError) as raised:
        list(make_source(tmp_path, labels="metadata").items())
    assert raised.value.got == "metadata.csv, metadata.jsonl"
    assert raised.value.where == str(tmp_path / "sub")


def test_a_missing_metadata_file_is_refused(tmp_path: Path, write_image: WriteImage) -> None:
    """The error names the accepted file names."""
    write_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="no metadata file") as raised:
        list(make_source(tmp_path, labels="metadata").items())
    assert raised.value.expected == "metadata.csv or metadata.jsonl or metadata.parquet"


def test_a_missing_metadata_column_is_refused(tmp_path: Path, write_image: WriteImage) -> None:
    """The error names the file, its columns, and the most similar one."""
    write_image(tmp_path / "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text("file_name,Labels\na.png,x\n")
    with pytest.raises(InputError, match="no column 'label'") as raised:
        list(make_source(tmp_path, labels="metadata").items())
    assert raised.value.where == f"dataset.label_column, {tmp_path / 'sub/metadata.csv'}"
    assert raised.value.expected == "one of its columns: file_name, Labels"
    assert "did you mean 'Labels'?" in raised.value.next_step


def test_metadata_without_file_names_is_refused(tmp_path: Path, write_image: WriteImage) -> None:
    """The column file_name is required."""
    write_image(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.png", "label": "x"}\n')
    with pytest.raises(InputError, match="no column 'file_name'"):
        list(make_source(tmp_path, labels="metadata").items())


def test_unused_metadata_is_ignored(tmp_path: Path, write_image: WriteImage) -> None:
    """With folder labels and no captions, even a damaged metadata file affects neither the listing nor the revision."""
    write_image(tmp_path / "cat/a.png")
    before = make_source(tmp_path).compute_revision()
    (tmp_path / "metadata.csv").write_bytes(b"\xff\n1,2\n")
    assert list_labels(tmp_path) == {"cat/a.png": "cat"}
    assert make_source(tmp_path).compute_revision() == before


NAMES = st.lists(st.sampled_from(["a", "b", "a b", "a.", "é", "B", "a!", "~"]), min_size=1, max_size=3).map("/".join)


@given(st.sets(NAMES), st.sets(NAMES))
def test_joining_equals_a_lookup(images: set[str], rows: set[str]) -> None:
    """Joining two ordered streams yields every path once, with its image and row if present."""

    def ordered(paths: set[str]) -> list[str]:
        return sorted(paths, key=lambda path: path.split("/"))

    pairs = join_metadata((FileEntry(path, 1, 1) for path in ordered(images)), (MetadataRow(path, None, None) for path in ordered(rows)))
    joined = [(image.path if image else None, row.path if row else None) for image, row in pairs]
    assert sorted(joined, key=str) == sorted(((p if p in images else None, p if p in rows else None) for p in images | rows), key=str)


def test_duckdb_orders_paths_like_the_walk(tmp_path: Path, write_image: WriteImage) -> None:
    """Metadata in any order is joined with its images, also for names of any script that sort differently as whole paths."""
    names = ["a/z.png", "a b/a.png", "a.png", "a-b/a.png", "B.png", "é.png", "日.png", "\U0001f600.png", "\ufb01.png"]
    for name in names:
        write_image(tmp_path / name)
    lines = "".join(f"{name},{number}\n" for number, name in reversed(list(enumerate(names))))
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + lines)
    items = make_source(tmp_path, labels="metadata").items()
    assert sorted((item.path, item.label) for item in items) == sorted((name, str(number)) for number, name in enumerate(names))


# caption files


def test_text_files_next_to_images_are_captions(tmp_path: Path, write_image: WriteImage) -> None:
    """The .txt file with the same stem is the caption, without a byte-order mark."""
    for path in ("cat/a.png", "cat/b.png", "cat/two.dots.png"):
        write_image(tmp_path / path)
    (tmp_path / "cat/a.txt").write_bytes("\ufeffein Kätzchen\n".encode())
    (tmp_path / "cat/two.dots.txt").write_text("dots")
    (tmp_path / "cat/alone.txt").write_text("no image")
    assert list_captions(tmp_path, captions="text") == {"cat/a.png": "ein Kätzchen\n", "cat/b.png": None, "cat/two.dots.png": "dots"}
    assert set(list_captions(tmp_path).values()) == {None}


def test_captions_that_are_not_utf8_are_empty(tmp_path: Path, write_image: WriteImage) -> None:
    """A caption in another encoding becomes an empty text, which validation rejects; the encoding is not guessed."""
    write_image(tmp_path / "cat/a.png")
    (tmp_path / "cat/a.txt").write_bytes(b"caf\xe9")
    assert list_captions(tmp_path, captions="text") == {"cat/a.png": ""}


# revision


def test_the_revision_covers_the_files_in_use(tmp_path: Path, write_image: WriteImage) -> None:
    """The revision changes with an image, metadata or caption file in use, and with nothing else."""
    image = write_image(tmp_path / "cat/a.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/a.png,x\n")
    (tmp_path / "cat/a.txt").write_text("one")
    settings = {"labels": "metadata", "captions": "text"}
    revisions = [make_source(tmp_path, **settings).compute_revision()]
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/a.png,yy\n")
    revisions.append(make_source(tmp_path, **settings).compute_revision())
    (tmp_path / "cat/a.txt").write_text("three")
    revisions.append(make_source(tmp_path, **settings).compute_revision())
    os.utime(image, ns=(1, 1))
    revisions.append(make_source(tmp_path, **settings).compute_revision())
    write_image(tmp_path / "cat/b.png")
    revisions.append(make_source(tmp_path, **settings).compute_revision())
    assert len(set(revisions)) == 5
    (tmp_path / "notes.md").write_text("x")
    assert make_source(tmp_path, **settings).compute_revision() == revisions[-1]


# missing folders


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The error says whether a file or nothing is at the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="does not exist") as raised:
        make_source(tmp_path / "none")
    assert raised.value.got == f"nothing at {tmp_path / 'none'}"
    with pytest.raises(InputError) as raised:
        make_source(tmp_path / "file")
    assert raised.value.got == "a file"


def test_the_error_for_a_missing_demo_folder_names_the_command(root: Root) -> None:
    """{root} is replaced by the root directory, and the next step is the command that writes the demo folder."""
    config = FolderDatasetConfig(source="folder", path="{root}/sources/digits/1")
    with pytest.raises(InputError) as raised:
        open_source(config, root)
    assert raised.value.next_step == "run indexmill demo, which writes it"
    assert str(root.path) in raised.value.where


def test_caltech101_is_read_completely(real_data: Path) -> None:
    """The Caltech-101 sample has 25 images in each of 102 folders."""
    labels = list_labels(real_data / "caltech101/101_ObjectCategories")
    assert len(labels) == 2550
    assert len(set(labels.values())) == 102
    assert sum(label == "Faces_easy" for label in labels.values()) == 25
