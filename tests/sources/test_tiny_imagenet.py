"""Tiny ImageNet in the layout of its archive."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from indexmill.configs.datasets import TinyImagenetDatasetConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.tiny_imagenet import TinyImagenetSource

Split = Literal["train", "val"]


def make_source(folder: Path, splits: tuple[Split, ...] = ("train", "val")) -> TinyImagenetSource:
    return TinyImagenetSource(TinyImagenetDatasetConfig(source="tiny-imagenet", path=str(folder), splits=splits))


@pytest.fixture
def archive(tmp_path: Path, write_image: Callable[[Path], Path]) -> Path:
    """Two classes in wnids.txt and one that is not, with two validation images."""
    top = tmp_path / "tiny"
    for path in ("train/n1/images/n1_0.JPEG", "train/n2/images/n2_0.JPEG", "train/n9/images/n9_0.JPEG"):
        write_image(top / path)
    for path in ("val/images/val_0.JPEG", "val/images/val_1.JPEG"):
        write_image(top / path)
    (top / "wnids.txt").write_text("n2\nn1\n")
    (top / "words.txt").write_text("n1\tgoldfish, Carassius auratus\nn2\tcrane\nn9\tcrane\n")
    (top / "val/val_annotations.txt").write_text("val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn9\t0\t0\t9\t9\n")
    return top


def test_labels_are_the_first_name_of_a_class(archive: Path) -> None:
    """The first name in words.txt is the label, the folder the split; classes missing in wnids.txt are skipped."""
    items = [(item.key, item.label, item.split) for item in make_source(archive).items()]
    assert items == [
        ("train/n1/images/n1_0.JPEG", "goldfish", "train"),
        ("train/n2/images/n2_0.JPEG", "crane", "train"),
        ("val/images/val_0.JPEG", "crane", "val"),
    ]


def test_labels_of_classes_with_the_same_name_include_the_id(archive: Path) -> None:
    """With the second crane in wnids.txt, both cranes have their id in the label, and the goldfish does not."""
    (archive / "wnids.txt").write_text("n1\nn2\nn9\n")
    assert Counter(item.label for item in make_source(archive).items()) == {"goldfish": 1, "crane (n2)": 2, "crane (n9)": 2}


def test_a_class_without_a_name_is_labeled_with_its_id(archive: Path) -> None:
    """An id missing in words.txt is its own label."""
    (archive / "words.txt").write_text("n1\tgoldfish\n")
    assert {item.label for item in make_source(archive).items()} == {"goldfish", "n2"}


def test_one_split_can_be_read_alone(archive: Path) -> None:
    """With splits train, val may be missing, and the reverse."""
    assert {item.split for item in make_source(archive, ("val",)).items()} == {"val"}
    shutil.rmtree(archive / "val")
    assert {item.split for item in make_source(archive, ("train",)).items()} == {"train"}


def test_items_can_be_opened(archive: Path, root: Root) -> None:
    """The path is relative to the image root and the size is the file's; the source is labeled and has no pairs."""
    source = open_source(TinyImagenetDatasetConfig(source="tiny-imagenet", path=str(archive)), root)
    assert source.image_root is not None
    assert [(source.image_root / str(item.path)).stat().st_size == item.size for item in source.items()] == [True] * 3
    assert source.labeled
    assert list(source.pairs()) == []


def test_validation_images_and_annotations_without_a_match_are_kept(archive: Path, write_image: Callable[[Path], Path]) -> None:
    """An image without an annotation has no label, an annotation without an image no path."""
    write_image(archive / "val/images/val_7.JPEG")
    (archive / "val/images/val_0.JPEG").unlink()
    items = {item.key: (item.label, item.path) for item in make_source(archive, ("val",)).items()}
    assert items == {"val/images/val_7.JPEG": (None, "val/images/val_7.JPEG"), "val/images/val_0.JPEG": ("crane", None)}


@pytest.mark.parametrize("missing", ["wnids.txt", "words.txt", "val/val_annotations.txt", "val/images", "train/n2"])
def test_an_incomplete_folder_is_refused(archive: Path, missing: str) -> None:
    """The error names the missing part."""
    path = archive / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="layout of Tiny ImageNet") as raised:
        make_source(archive)
    assert missing in raised.value.got
    assert str(archive) in raised.value.where


def test_annotations_without_tabs_are_refused(archive: Path) -> None:
    """The error names file and line."""
    (archive / "val/val_annotations.txt").write_text("val_0.JPEG\tn2\nval_1.JPEG n9\n")
    with pytest.raises(InputError) as raised:
        list(make_source(archive).items())
    assert raised.value.where.endswith("val_annotations.txt, line 2")


def test_the_revision_covers_images_and_labels(archive: Path) -> None:
    """The revision changes with an image's time, with a label, and with the list of classes."""
    revisions = [make_source(archive).compute_revision(), make_source(archive).compute_revision()]
    os.utime(archive / "train/n1/images/n1_0.JPEG", ns=(1, 1))
    revisions.append(make_source(archive).compute_revision())
    (archive / "words.txt").write_text("n1\tcarp\nn2\tcrane\n")
    revisions.append(make_source(archive).compute_revision())
    (archive / "wnids.txt").write_text("n1\n")
    revisions.append(make_source(archive).compute_revision())
    assert revisions[0] == revisions[1]
    assert len(set(revisions)) == 4


def test_the_real_archive_is_read_completely(real_data: Path) -> None:
    """It has 40 classes with readable names, each with 50 training and 10 validation images."""
    items = list(make_source(real_data / "tiny-imagenet-200").items())
    assert Counter((item.label, item.split) for item in items) == {
        (label, split): count for label in {item.label for item in items} for split, count in (("train", 50), ("val", 10))
    }
    assert len({item.label for item in items}) == 40
    assert "bighorn" in {item.label for item in items}
