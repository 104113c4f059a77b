"""tiny-imagenet in the layout of its archive."""

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


def source(folder: Path, splits: tuple[Split, ...] = ("train", "val")) -> TinyImagenetSource:
    return TinyImagenetSource(TinyImagenetDatasetConfig(source="tiny-imagenet", path=str(folder), splits=splits))


@pytest.fixture
def archive(tmp_path: Path, picture: Callable[[Path], Path]) -> Path:
    """Two allowed classes and one that wnids.txt lacks, with two validation images."""
    top = tmp_path / "tiny"
    for path in ("train/n1/images/n1_0.JPEG", "train/n2/images/n2_0.JPEG", "train/n9/images/n9_0.JPEG"):
        picture(top / path)
    for path in ("val/images/val_0.JPEG", "val/images/val_1.JPEG"):
        picture(top / path)
    (top / "wnids.txt").write_text("n2\nn1\n")
    (top / "words.txt").write_text("n1\tgoldfish, Carassius auratus\nn2\tcrane\nn9\tcrane\n")
    (top / "val/val_annotations.txt").write_text("val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn9\t0\t0\t9\t9\n")
    return top


def test_labels_are_the_first_name_of_a_class(archive: Path) -> None:
    """The first name in words.txt is the label, the folder the split; classes that wnids.txt lacks are left out of both splits."""
    items = [(item.key, item.label, item.split) for item in source(archive).items()]
    assert items == [
        ("train/n1/images/n1_0.JPEG", "goldfish", "train"),
        ("train/n2/images/n2_0.JPEG", "crane", "train"),
        ("val/images/val_0.JPEG", "crane", "val"),
    ]


def test_two_classes_with_one_name_carry_their_id(archive: Path) -> None:
    """Once the second crane is allowed, both cranes carry their id and the goldfish stays as it is."""
    (archive / "wnids.txt").write_text("n1\nn2\nn9\n")
    assert Counter(item.label for item in source(archive).items()) == {"goldfish": 1, "crane (n2)": 2, "crane (n9)": 2}


def test_a_class_without_a_name_is_its_id(archive: Path) -> None:
    """An allowed id that words.txt lacks is its own label."""
    (archive / "words.txt").write_text("n1\tgoldfish\n")
    assert {item.label for item in source(archive).items()} == {"goldfish", "n2"}


def test_one_split_can_be_read_alone(archive: Path) -> None:
    """With splits train, val need not be there, and the reverse."""
    assert {item.split for item in source(archive, ("val",)).items()} == {"val"}
    shutil.rmtree(archive / "val")
    assert {item.split for item in source(archive, ("train",)).items()} == {"train"}


def test_items_can_be_opened(archive: Path, root: Root) -> None:
    """Path and size lead to the file below base; the source is labelled and has no pairs."""
    opened = open_source(TinyImagenetDatasetConfig(source="tiny-imagenet", path=str(archive)), root)
    assert opened.image_root is not None
    assert [(opened.image_root / str(item.path)).stat().st_size == item.size for item in opened.items()] == [True] * 3
    assert opened.labeled
    assert list(opened.pairs()) == []


def test_validation_images_and_annotations_that_do_not_meet_are_kept(archive: Path, picture: Callable[[Path], Path]) -> None:
    """An image without annotation has no label, an annotation without image no path."""
    picture(archive / "val/images/val_7.JPEG")
    (archive / "val/images/val_0.JPEG").unlink()
    items = {item.key: (item.label, item.path) for item in source(archive, ("val",)).items()}
    assert items == {"val/images/val_7.JPEG": (None, "val/images/val_7.JPEG"), "val/images/val_0.JPEG": ("crane", None)}


@pytest.mark.parametrize("missing", ["wnids.txt", "words.txt", "val/val_annotations.txt", "val/images", "train/n2"])
def test_a_folder_that_lacks_a_part_is_refused(archive: Path, missing: str) -> None:
    """The error names the part that is missing."""
    path = archive / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="layout of Tiny ImageNet") as refused:
        source(archive)
    assert missing in refused.value.got
    assert str(archive) in refused.value.where


def test_annotations_without_tabs_are_refused(archive: Path) -> None:
    """The error names file and line."""
    (archive / "val/val_annotations.txt").write_text("val_0.JPEG\tn2\nval_1.JPEG n9\n")
    with pytest.raises(InputError) as refused:
        list(source(archive).items())
    assert refused.value.where.endswith("val_annotations.txt, line 2")


def test_the_revision_covers_images_and_labels(archive: Path) -> None:
    """The revision changes with an image's time, with a label, and with the list of classes."""
    seen = [source(archive).compute_revision(), source(archive).compute_revision()]
    os.utime(archive / "train/n1/images/n1_0.JPEG", ns=(1, 1))
    seen.append(source(archive).compute_revision())
    (archive / "words.txt").write_text("n1\tcarp\nn2\tcrane\n")
    seen.append(source(archive).compute_revision())
    (archive / "wnids.txt").write_text("n1\n")
    seen.append(source(archive).compute_revision())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 4


def test_the_real_archive_is_read_whole(real_data: Path) -> None:
    """40 classes, 50 training and 10 validation images each, under names that people can read."""
    items = list(source(real_data / "tiny-imagenet-200").items())
    assert Counter((item.label, item.split) for item in items) == {
        (label, split): count for label in {item.label for item in items} for split, count in (("train", 50), ("val", 10))
    }
    assert len({item.label for item in items}) == 40
    assert "bighorn" in {item.label for item in items}
