"""A Kaggle data set, pinned to a version, downloaded and unpacked once a version, then read as a folder of images.

<root>/sources/<slug>/<version>/archive           a download under way; goes on where it was cut
<root>/sources/<slug>/<version>/files/…           what the archive held
<root>/sources/<slug>/<version>/inventory.json    written last
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from indexmill.configs.datasets import KaggleDatasetConfig
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.locks import lease
from indexmill.storage.records import FrozenModel, Modality
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.sources.archives import unpack
from indexmill.tasks.sources.downloads import INVENTORY, Patience, nearest, pin, pinned, read_record, slug
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.sources.kaggle_api import Kaggle
from indexmill.tasks.sources.listing import Item, Pair


class Inventory(FrozenModel):
    """What a version's folder holds: files and their bytes unpacked, and the size and SHA-256 of the archive they came from."""

    handle: str
    version: int
    files: int
    bytes: int
    archive_bytes: int
    archive_sha256: str


class KaggleSource:
    """The images of one version below `subdir`. Nothing is asked of Kaggle before something is needed."""

    modality: Modality = "image"

    def __init__(self, config: KaggleDatasetConfig, root: Root, patience: Patience | None = None) -> None:
        self._config, self._root, self._patience = config, root, patience or Patience()
        self._slug = slug("kaggle", config.handle)

    @cached_property
    def image_root(self) -> Path | None:
        """The folder below which images are read; fetched first where the version is not there yet."""
        return self._images.image_root

    @cached_property
    def labelled(self) -> bool:
        """As the folder says."""
        return self._images.labelled

    def revision(self) -> str:
        """Digest of how the data set is read and of the version that it stands at now."""
        if self._config.version is None:
            self._version = self._kaggle.newest()
            for listed in ("base", "labelled", "_images"):
                self.__dict__.pop(listed, None)
            pin(self._root, self._slug, "newest", str(self._version))
        return json_digest([self._config.model_dump(mode="json", exclude={"version"}), self._version])

    def items(self) -> Iterator[Item]:
        """The folder's items; fetched first where the version is not there yet."""
        return self._images.items()

    def pairs(self) -> Iterator[Pair]:
        """The folder's."""
        return self._images.pairs()

    @cached_property
    def _version(self) -> int:
        """The version that the config names or `revision` announced, in this process or an earlier one; else Kaggle's newest."""
        return self._config.version or int(pinned(self._root, self._slug, "newest") or self._kaggle.newest())

    @cached_property
    def _images(self) -> FolderSource:
        folder = self._root.source(self._slug, str(self._version))
        if read_record(folder / INVENTORY, Inventory) is None:
            with lease(folder.with_name(f"{folder.name}.lease"), holder=f"process {os.getpid()}", wait=True):
                if read_record(folder / INVENTORY, Inventory) is None:  # nobody fetched it while we waited
                    self._fetch(folder)
        return FolderSource(_below(folder / "files", self._config.subdir), self._config)

    @cached_property
    def _kaggle(self) -> Kaggle:
        return Kaggle(self._config.handle, self._patience)

    def _fetch(self, folder: Path) -> None:
        """Download, check, unpack aside, move into place; then the inventory."""
        archive, files = folder / "archive", folder / "files"
        with track(f"fetching {self._config.handle}", 1) as advance, self._root.scratch.staging() as staging:
            folder.mkdir(parents=True, exist_ok=True)
            digest = self._kaggle.download(self._version, archive)
            count, size = unpack(archive, staging / "files", where=f"{self._config.handle}, version {self._version}")
            shutil.rmtree(files, ignore_errors=True)  # of a fetch that was killed before its inventory
            os.sync()  # what was unpacked, before the inventory can vouch for it
            commit(staging / "files", files)
            advance(1)
        inventory = Inventory(
            handle=self._config.handle, version=self._version, files=count, bytes=size,
            archive_bytes=archive.stat().st_size, archive_sha256=digest,
        )  # fmt: skip
        self._root.write_record(folder / INVENTORY, inventory)
        archive.unlink()


def _below(files: Path, subdir: str) -> Path:
    """The sub-folder, which has to lie in the data set."""
    folder = (files / subdir).resolve()
    if folder.is_dir() and folder.is_relative_to(files.resolve()):
        return folder
    there = [path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_dir()]
    raise InputError(
        "the data set has no such folder",
        where=f"dataset.subdir = {subdir}",
        expected="a folder of the data set",
        got=nearest(subdir, there),
        next_step="name one of them in dataset.subdir",
    )
