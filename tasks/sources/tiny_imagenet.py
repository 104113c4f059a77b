"""Tiny ImageNet in the layout of its archive.

The key is the path below the folder; the label is the first name in words.txt for the WordNet id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from indexmill.configs.datasets import TinyImagenetDatasetConfig
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.names import is_plain_name
from indexmill.storage.records import Modality
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.image_files import FileEntry, is_image_name, make_image_item, walk_files

ANNOTATIONS_FILE = "val/val_annotations.txt"


class TinyImagenetSource:
    """The images of the classes in wnids.txt; images of other classes are skipped.

    If two classes share a name in words.txt, their labels include the id, as in `crane (n02012849)`. A class without a
    name is labeled with its id. A validation image without a line in val_annotations.txt has no label, and a line
    without an image becomes an item without a path: validation rejects both.
    """

    modality: Modality = "image"
    image_root: Path | None
    labeled = True

    def __init__(self, config: TinyImagenetDatasetConfig) -> None:
        self._folder = self.image_root = Path(config.path).expanduser().resolve()
        self._splits = config.splits
        if missing := self._find_missing_files():
            raise InputError(
                "the folder does not have the layout of Tiny ImageNet's archive",
                where=f"dataset.path = {config.path}",
                expected="wnids.txt, words.txt, train/<wnid>/images for every id in wnids.txt, val/images and " + ANNOTATIONS_FILE,
                got="no " + ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
                next_step="unpack the whole archive, and set dataset.path to the folder with wnids.txt",
            )

    def compute_revision(self) -> str:
        """Return a digest of every image's path, label, size and modification time."""
        return rows_digest((item.key, item.label, item.size, item.mtime_ns) for item in self.items())

    def items(self) -> Iterator[Item]:
        """Yield the training images class by class, then the validation images."""
        if "train" in self._splits:
            for wnid in self._wnids:
                for image in self._walk_images(f"train/{wnid}/images"):
                    yield make_image_item(image, label=self._labels[wnid], split="train")
        if "val" in self._splits:
            yield from self._iterate_validation_items()

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: the images are not scored."""
        return iter(())

    def _iterate_validation_items(self) -> Iterator[Item]:
        wnid_by_path = {f"val/images/{name}": wnid for name, wnid in self._read_two_columns(ANNOTATIONS_FILE)}
        for image in self._walk_images("val/images"):
            wnid = wnid_by_path.pop(image.path, None)
            if wnid is None or wnid in self._labels:
                yield make_image_item(image, label=self._labels.get(wnid or ""), split="val")
        for path, wnid in wnid_by_path.items():
            if wnid in self._labels:
                yield Item(key=path, label=self._labels[wnid], split="val")

    def _walk_images(self, folder: str) -> Iterator[FileEntry]:
        return walk_files(self._folder / folder, is_image_name, prefix=folder + "/")

    @cached_property
    def _wnids(self) -> list[str]:
        wnids = sorted(set((self._folder / "wnids.txt").read_text("utf-8").split()))
        if invalid := [wnid for wnid in wnids if not is_plain_name(wnid)]:
            raise InputError(
                "invalid class id",
                where=str(self._folder / "wnids.txt"),
                expected="a WordNet id, such as n02012849",
                got=invalid[0],
                next_step="unpack the archive again",
            )
        return wnids

    @cached_property
    def _labels(self) -> dict[str, str]:
        """The label of every class in wnids.txt."""
        words = dict(self._read_two_columns("words.txt"))
        names = {wnid: words.get(wnid, wnid).split(",")[0].strip() for wnid in self._wnids}
        counts = Counter(names.values())
        return {wnid: name if counts[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}

    def _find_missing_files(self) -> list[str]:
        """Return the files and folders that the archive has and this folder lacks."""
        files = ["wnids.txt", "words.txt", *([ANNOTATIONS_FILE] if "val" in self._splits else [])]
        if missing := [file for file in files if not (self._folder / file).is_file()]:
            return missing
        folders = [f"train/{wnid}/images" for wnid in self._wnids] if "train" in self._splits else []
        folders += ["val/images"] if "val" in self._splits else []
        return [folder for folder in folders if not (self._folder / folder).is_dir()]

    def _read_two_columns(self, file: str) -> Iterator[tuple[str, str]]:
        """Yield the first two columns of a tab-separated file."""
        for number, line in enumerate((self._folder / file).read_text("utf-8").splitlines(), 1):
            cells = line.split("\t")
            if len(cells) < 2:
                raise InputError(
                    "a line has no second column",
                    where=f"{self._folder / file}, line {number}",
                    expected="tab-separated columns",
                    got=line[:200] or "an empty line",
                    next_step="fix the line, or unpack the archive again",
                )
            yield cells[0], cells[1]
