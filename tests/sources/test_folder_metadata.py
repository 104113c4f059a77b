"""Metadata files and caption files of image folders."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.errors import InputError
from indexmill.tasks.sources.folder import MetadataRow, join_metadata
from indexmill.tasks.sources.image_files import FileEntry
from tests.sources.image_folders import WriteImage, list_captions, list_labels, make_source

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


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "/etc/passwd", ".hidden.png"])
def test_a_row_without_an_image_is_an_item_without_a_path(tmp_path: Path, write_image: WriteImage, name: str) -> None:
    """A row whose image is missing, outside the folder or skipped keeps its key and label, but has no path."""
    write_image(tmp_path / "secret.png")
    top = tmp_path / "top"
    write_image(top / "a.png")
    write_image(top / ".hidden.png")
    (top / "metadata.csv").write_text(f"file_name,label\n{name},x\na.png,y\n")
    items = {item.key: item for item in make_source(top, labels="metadata", captions="text").items()}
    assert items.keys() == {name, "a.png"}
    assert (items[name].label, items[name].path) == ("x", None)
    assert (items["a.png"].label, items["a.png"].path) == ("y", "a.png")


def test_a_row_without_a_file_name_gets_the_line_in_its_metadata_file(tmp_path: Path, write_image: WriteImage) -> None:
    """A row with an empty file name is not lost: its key is the metadata file with the line, and it has no path."""
    write_image(tmp_path / "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text("file_name,label\na.png,y\n,x\n")
    items = [(item.key, item.label, item.path) for item in make_source(tmp_path, labels="metadata").items()]
    assert items == [("sub/a.png", "y", "sub/a.png"), ("sub/metadata.csv:line 3", "x", None)]


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
    """With folder labels and no captions, even a damaged metadata file does not affect the listing. It is counted."""
    write_image(tmp_path / "cat/a.png")
    (tmp_path / "metadata.csv").write_bytes(b"\xff\n1,2\n")
    source = make_source(tmp_path)
    assert [(item.key, item.label) for item in source.items()] == [("cat/a.png", "cat")]
    assert source.skipped == {".csv": 1}


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
    """Metadata in any order is joined with its images, also where names sort differently as whole paths."""
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


@pytest.mark.parametrize(
    ("on_disk", "named"),
    [
        ("img/caf\u00e9.png", "img/cafe\u0301.png"),
        ("img/cafe\u0301.png", "img/caf\u00e9.png"),
        ("u\u0308ber/a.png", "\u00fcber/a.png"),
        ("img/a.png", "img\\a.png"),
        ("img/a.png", "/img/a.png"),
        ("img/a.png", "./img/../img/a.png"),
        ("img/a.png", "{top}/img/a.png"),
        ("img/50% of?.png", "img/50% of?.png"),
    ],
)
def test_names_are_joined_whatever_their_unicode_form_and_slashes(
    tmp_path: Path, write_image: WriteImage, on_disk: str, named: str
) -> None:
    """As a Mac unpacks them, and as scripts on Windows write them."""
    write_image(tmp_path / on_disk)
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{named.replace('{top}', str(tmp_path))},x\n", encoding="utf-8")
    (item,) = make_source(tmp_path, labels="metadata").items()
    assert (item.key, item.path, item.label) == (on_disk, on_disk, "x")


def test_a_name_that_two_files_could_have_or_that_differs_in_case_is_not_guessed(tmp_path: Path, write_image: WriteImage) -> None:
    """The message of the second names the near file."""
    for name in ("A\u030a\u0323.png", "A\u0323\u030a.png", "Cat.png"):
        write_image(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,label\n\u1ea0\u030a.png,x\ncat.png,y\n", encoding="utf-8")
    items = {item.label: item for item in make_source(tmp_path, labels="metadata").items() if item.label}
    assert items["x"].path is None
    assert "there is 'Cat.png'" in str(items["y"].fault)


def test_a_malformed_metadata_row_costs_itself(tmp_path: Path, write_image: WriteImage) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,x,more\nb.png,y\n")
    items = {item.key: item for item in make_source(tmp_path, labels="metadata").items()}
    assert items["b.png"].label == "y"
    assert "3 cells" in str(items["metadata.csv:line 2"].fault)
