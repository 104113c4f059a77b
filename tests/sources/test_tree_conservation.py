"""Every file below an image folder is an item, a caption of one, or counted by its kind, whatever the tree is."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from indexmill.configs.datasets import DatasetConfig, FolderDatasetConfig
from indexmill.configs.models import ValidateConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.validate import validate
from tests.hostile_names import WORST_NAME
from tests.sources.hub_datasets import make_jpeg, make_png
from tests.sources.ordinary_user import as_ordinary_user
from tests.sources.table_files import write_table
from tests.stage_inputs import read_rows

PNG, JPEG = make_png(1), make_jpeg(2)
CONTENTS = [
    *[PNG, JPEG, b"", b"text", PNG[:40], b"\x89PNG", b"BM", b"P5 1 1 255\n\0", b"II*\0", b"\0\0\1\0", b"\xff\xd8\xff", b"%PDF-1.7"],
    bytes(64),
]
NAMES = [
    *["a.png", "a.txt", "a.jpg", "b.JPEG", "b", "c.png.txt", "photo.jpg?w=640", ".hidden", "-rf", "it's", 'a"b', "a b ", "%20.png"],
    *["{x}.png", "[x].png", "a\nb.png", "caf\u00e9.png", "cafe\u0301.png", "caf\udce9.png", "\u65e5" * 66 + ".gif", "metadata.csv"],
    *["COM1.png", "a.", "~", "n" * 254],
]
KINDS = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(CONTENTS)),
    st.tuples(st.just("link"), st.sampled_from([".", "..", "nowhere", "a.png", "/dev/null", "\u65e5" * 90])),
    st.tuples(st.just("pipe"), st.just("")),
)
FOLDERS = st.lists(st.sampled_from(["cat", "dog", ".git", "e\u0301", "\udcff", "a b", "x.png"]), max_size=3)
Entry = tuple[list[str], str, tuple[str, bytes | str]]


def make_tree(top: Path, entries: list[Entry]) -> None:
    """Make files, links and pipes, as far as their names do not meet."""
    for folders, name, (kind, content) in entries:
        folder = top.joinpath(*folders)
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                continue
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif kind == "link":
                path.symlink_to(content)
            else:
                os.mkfifo(path)
        except (FileExistsError, NotADirectoryError, OSError):
            continue


def count_entries(folder: Path, above: tuple[Path, ...] = ()) -> int:
    """Count what is below a folder, by another way than the walk: links are followed, except to folders above."""
    here, count = (*above, folder.resolve()), 0
    for path in folder.iterdir():
        if path.name.startswith(".") or not os.path.isdir(path) or path.resolve() in here:  # noqa: PTH112 (pathlib's raises for long names)
            count += 1
        else:
            count += count_entries(path, here)
    return count


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FOLDERS, st.sampled_from(NAMES), KINDS), max_size=14), st.booleans())
def test_every_file_is_an_item_or_counted(entries: list[Entry], with_captions: bool) -> None:
    config = FolderDatasetConfig(source="folder", path="top", labels="none", captions="text" if with_captions else "none")
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "top"
        top.mkdir()
        make_tree(top, entries)
        source = FolderSource(top, config)
        items = list(source.items())
        captions = {Path(os.fsdecode(_decode_key(item.key))).with_suffix(".txt") for item in items} if with_captions else set()
        used = sum(os.path.lexists(top / caption) and not (top / caption).is_dir() for caption in captions if len(caption.name) < 255)
        assert len({item.key for item in items}) == len(items)
        assert len(items) + source.skipped.total() + used == count_entries(top)


def _decode_key(key: str) -> bytes:
    r"""Return the path of a key; a key with \xNN for bytes that are not UTF-8 starts with a slash."""
    if not key.startswith("/"):
        return os.fsencode(key)
    return re.sub(rb"\\(\\|x..)", lambda match: bytes([int(match[1][1:], 16)]) if len(match[1]) == 3 else b"\\", key[1:].encode())


def test_a_tree_of_everything_counts_in_ingest_and_validation(tmp_path: Path, root: Root) -> None:
    """Each name with each content: what decodes is an item, the rest are rejects or counted files."""
    files: list[Entry] = [([f"kind {number}"], name, ("file", content)) for number, content in enumerate(CONTENTS) for name in NAMES]
    make_tree(tmp_path / "top", files)
    config = FolderDatasetConfig(source="folder", path=str(tmp_path / "top"))
    dataset = ingest.fn(root, "some", config, "r")
    validated = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=1))
    rejects = read_rows(root, validated.rejects)
    assert validated.items + len(rejects) + sum(dataset.skipped.values()) == len(files)
    assert validated.items == 2 * (len(NAMES) - 2)  # two images, without the hidden name and the one that is not UTF-8
    assert all(row["message"] for row in rejects)
    assert {row["reason"] for row in rejects} == {"empty", "not_an_image", "damaged", "missing_path", "unsupported"}


def test_a_tree_may_be_deeper_than_python_recurses() -> None:
    """A file at the longest path that the system has is an item; a folder beyond it is one that cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "top"
        top.mkdir()
        try:
            make_deep_folders(top, [*["d"] * 1100, *["long" * 60] * 10])  # beyond Python's limit, and the 4,096 bytes of a path
            (top / ("d/" * 1100) / "a.png").write_bytes(PNG)
            items = list(FolderSource(top, FolderDatasetConfig(source="folder", path=str(top), labels="none")).items())
        finally:
            subprocess.run(["rm", "-rf", str(top)], check=True)  # Python's own way recurses
    assert [item.key for item in items if item.size] == ["d/" * 1100 + "a.png"]
    assert len(items) == 2
    assert len(items[1].key) > 3800


def make_deep_folders(top: Path, names: list[str]) -> None:
    descriptor = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_captions_without_an_image_are_counted(tmp_path: Path) -> None:
    """In every folder, before and after its subfolders; a caption of two images is one."""
    for path in ("a.png", "b/c.png", "b/c.jpg", "z.webp"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(PNG)
        (tmp_path / path).with_suffix(".txt").write_text("a caption")
    for path in ("b/lost.txt", "lost.txt", "y.txt", "a.png.txt"):
        (tmp_path / path).write_text("whose?")
    source = FolderSource(tmp_path, FolderDatasetConfig(source="folder", path=str(tmp_path), labels="none", captions="text"))
    assert [item.text for item in source.items()] == ["a caption"] * 4
    assert source.skipped == {".txt without an image": 4}


def test_a_folder_that_cannot_be_listed_is_an_error(public_folder: Path) -> None:
    (public_folder / "top").mkdir(mode=0)
    with as_ordinary_user(), pytest.raises(InputError, match="cannot be read"):
        FolderSource(public_folder / "top", FolderDatasetConfig(source="folder", path=str(public_folder / "top")))


@pytest.mark.parametrize("source", ["folder", "metadata", "table"])
def test_images_below_the_worst_of_names_are_items(tmp_path: Path, root: Root, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """As label, file name, caption and folder above, from a path relative to the working directory."""
    assert 190 < len(WORST_NAME.encode()) < 240
    folder = Path("up") / f"{WORST_NAME}"
    monkeypatch.chdir(tmp_path)
    for label in (WORST_NAME, "other"):
        (folder / label).mkdir(parents=True)
        (folder / label / f"{WORST_NAME}.png").write_bytes(PNG)
    (folder / WORST_NAME / f"{WORST_NAME}.txt").write_text("a caption")
    names = [f"{label}/{WORST_NAME}.png" for label in (WORST_NAME, "other")]
    match source:
        case "folder":
            settings: dict[str, Any] = {"source": "folder", "path": str(folder).replace("{root}", "{ROOT}"), "captions": "text"}
            folder.rename(settings["path"])  # in a folder's path, {root} is the root
        case "metadata":
            write_table(folder / "metadata.jsonl", [{"file_name": name, "label": name} for name in names])
            settings = {"source": "folder", "path": str(folder).replace("{root}", "{ROOT}"), "labels": "metadata"}
            folder.rename(settings["path"])
        case "table":
            table = write_table(folder / f"{WORST_NAME}.jsonl", [{"f": name, "k": name, "l": name} for name in names])
            settings = {"source": "jsonl", "path": str(table), "image_column": "f", "key_column": "k", "label_column": "l"}
    config = TypeAdapter(DatasetConfig).validate_python(settings)
    validated = validate.fn(root, ingest.fn(root, "some", config, "r"), ValidateConfig())
    rows = {row["key"]: row for row in read_rows(root, validated.table)}
    assert rows.keys() == set(names)
    assert rows[names[0]]["label"] == (WORST_NAME if source == "folder" else names[0])
    assert rows[names[0]]["text"] == ("a caption" if source == "folder" else None)
