"""Image folders: labels, captions, metadata files, odd names."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from PIL import Image

from indexmill.configs.datasets import FolderDatasetConfig
from indexmill.storage.digests import item_id
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.image_files import walk_files
from tests.sources.image_folders import WriteImage, list_labels, make_source
from tests.sources.ordinary_user import as_ordinary_user

# labels from folders


def test_the_first_folder_is_the_label(tmp_path: Path, write_image: WriteImage) -> None:
    """At depth 1 the label is the first folder, however deep the image is; an image in the top folder has none."""
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


def test_an_image_is_an_item_whatever_its_name(tmp_path: Path) -> None:
    """The first bytes decide, or the suffix of an image format. Everything else is counted by its kind."""
    folder = tmp_path / "cat"
    folder.mkdir()
    names = ["a.jfif", "b.jpe", "c.jpg?w=640", "d.jpg.1", "e.jpg_large", "f.JPG ", "noname", "g.txt"]
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name, "JPEG")
    (folder / "h.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "heif").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (folder / "i.png").write_text("no image")
    for name in ("notes.txt", "more.TXT", "readme", "P1 is a start", "BMW.md", ".hidden"):
        (folder / name).write_text(name)
    os.mkfifo(folder / "pipe.png")
    source = make_source(tmp_path)
    assert {item.key for item in source.items()} == {f"cat/{name}" for name in [*names, "h.heic", "heif", "i.png"]}
    assert source.skipped == {".txt": 2, "without a suffix": 2, ".md": 1, "hidden": 1, "special file": 1}
    assert list(source.items())
    assert source.skipped.total() == 7


def test_a_folder_that_cannot_be_read_is_an_item_to_reject(public_folder: Path, write_image: WriteImage) -> None:
    write_image(public_folder / "cat/a.png")
    write_image(public_folder / "dog/a.png")
    (public_folder / "cat").chmod(0o755)
    (public_folder / "dog").chmod(0)
    with as_ordinary_user():
        assert [item.key for item in make_source(public_folder).items()] == ["cat/a.png", "dog"]


def test_links_are_followed_unless_they_lead_back(tmp_path: Path, write_image: WriteImage) -> None:
    """Links to outside files and folders are followed, a broken link is an item to reject, and a loop is counted."""
    outside = write_image(tmp_path / "outside/a.png")
    top = tmp_path / "top"
    write_image(top / "cat/own.png")
    (top / "cat/linked.png").symlink_to(outside)
    (top / "cat/broken.png").symlink_to(tmp_path / "nothing.png")
    (top / "loop").symlink_to(top)
    (top / "other").symlink_to(outside.parent)
    (top / "circle").symlink_to("circle")
    (top / "cat/up").symlink_to("..")
    source = make_source(top)
    sizes = {item.key: item.size for item in source.items()}
    assert source.skipped == {"loop of links": 2}
    assert sizes == {
        "circle": (top / "circle").lstat().st_size,
        "other/a.png": outside.stat().st_size,
        "cat/linked.png": outside.stat().st_size,
        "cat/own.png": outside.stat().st_size,
        "cat/broken.png": (top / "cat/broken.png").lstat().st_size,
    }


def test_paths_that_are_not_utf8_become_items_without_a_path(tmp_path: Path, write_image: WriteImage) -> None:
    r"""A key with invalid UTF-8 has \xNN and starts with a slash; a file with that literal name keeps its own key."""
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


# revision


def test_the_revision_covers_the_files_in_use(tmp_path: Path, write_image: WriteImage) -> None:
    """The revision changes with every file that is an item, in use or counted; hidden files change nothing."""
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
    (tmp_path / ".notes").write_text("x")
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
    config = FolderDatasetConfig(source="folder", path="{root}/sources/digits/2")
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
