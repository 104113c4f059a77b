"""Tiny ImageNet in the layout of its archive.

The key is the path below the folder; the label is the first name in words.txt for the WordNet id."""

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
    """The images of the classes in wnids.txt; those of other classes are left out.

    Two classes with one name in words.txt are told apart by their id, as in `crane (n02012849)`; a class without a name is its id. A
    validation image that val_annotations.txt lacks has no label, and one that it alone has no path: validation rejects both.
    """

    modality: Modality = "image"
    image_root: Path | None
    labeled = True

    def __init__(self, config: TinyImagenetDatasetConfig) -> None:
        self._folder = self.image_root = Path(config.path).expanduser().resolve()
        self._splits = config.splits
        if missing := self._find_missing_files():
            raise InputError(
                "the folder is not tiny-imagenet as its archive unpacks",
                where=f"dataset.path = {config.path}",
                expected="wnids.txt, words.txt, train/<wnid>/images for every id in wnids.txt, val/images and " + ANNOTATIONS_FILE,
                got="no " + ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
                next_step="unpack the archive whole, and set dataset.path to the folder that holds wnids.txt",
            )

    def compute_revision(self) -> str:
        """Digest of every image's path, label, size and modification time."""
        return rows_digest((item.key, item.label, item.size, item.mtime_ns) for item in self.items())

    def items(self) -> Iterator[Item]:
        """The training images class by class, then the validation images."""
        if "train" in self._splits:
            for wnid in self._wnids:
                for image in self._walk_images(f"train/{wnid}/images"):
                    yield make_image_item(image, label=self._labels[wnid], split="train")
        if "val" in self._splits:
            yield from self._iterate_validation_items()

    def pairs(self) -> Iterator[ScoredPair]:
        """None: the images are not scored."""
        return iter(())

    def _iterate_validation_items(self) -> Iterator[Item]:
        annotated = {f"val/images/{name}": wnid for name, wnid in self._read_two_columns(ANNOTATIONS_FILE)}
        for image in self._walk_images("val/images"):
            wnid = annotated.pop(image.path, None)
            if wnid is None or wnid in self._labels:
                yield make_image_item(image, label=self._labels.get(wnid or ""), split="val")
        for path, wnid in annotated.items():
            if wnid in self._labels:
                yield Item(key=path, label=self._labels[wnid], split="val")

    def _walk_images(self, folder: str) -> Iterator[FileEntry]:
        return walk_files(self._folder / folder, is_image_name, prefix=folder + "/")

    @cached_property
    def _wnids(self) -> list[str]:
        found = sorted(set((self._folder / "wnids.txt").read_text("utf-8").split()))
        if wrong := [wnid for wnid in found if not is_plain_name(wnid)]:
            raise InputError(
                "this cannot be the id of a class", where=str(self._folder / "wnids.txt"), expected="a WordNet id, n02012849", got=wrong[0],
                next_step="unpack the archive anew",
            )  # fmt: skip
        return found

    @cached_property
    def _labels(self) -> dict[str, str]:
        """The label of every class in wnids.txt."""
        words = dict(self._read_two_columns("words.txt"))
        names = {wnid: words.get(wnid, wnid).split(",")[0].strip() for wnid in self._wnids}
        counts = Counter(names.values())
        return {wnid: name if counts[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}

    def _find_missing_files(self) -> list[str]:
        """What the archive has and the folder lacks."""
        files = ["wnids.txt", "words.txt", *([ANNOTATIONS_FILE] if "val" in self._splits else [])]
        if missing := [file for file in files if not (self._folder / file).is_file()]:
            return missing
        folders = [f"train/{wnid}/images" for wnid in self._wnids] if "train" in self._splits else []
        folders += ["val/images"] if "val" in self._splits else []
        return [folder for folder in folders if not (self._folder / folder).is_dir()]

    def _read_two_columns(self, file: str) -> Iterator[tuple[str, str]]:
        """The first two columns of a tab-separated file."""
        for number, line in enumerate((self._folder / file).read_text("utf-8").splitlines(), 1):
            cells = line.split("\t")
            if len(cells) < 2:
                raise InputError(
                    "a line has no second column",
                    where=f"{self._folder / file}, line {number}",
                    expected="columns set apart by tabs",
                    got=line[:200] or "an empty line",
                    next_step="mend the line, or unpack the archive anew",
                )
            yield cells[0], cells[1]
