"""A Kaggle data set, pinned to a version, downloaded and unpacked once per version, then read as a folder of images.

<root>/sources/<slug>/<version>/archive           a download in progress; resumed after an interruption
<root>/sources/<slug>/<version>/files/…           the content of the archive
<root>/sources/<slug>/<version>/inventory.json    written last"""

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
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.downloads import (
    INVENTORY_FILE,
    RetryPolicy,
    list_with_nearest,
    make_slug,
    read_pin,
    read_record,
    unpack_archive,
    write_pin,
)
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.sources.kaggle_client import KaggleClient


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

    def __init__(self, config: KaggleDatasetConfig, root: Root, retry_policy: RetryPolicy | None = None) -> None:
        self._config, self._root, self._retry_policy = config, root, retry_policy or RetryPolicy()
        self._slug = make_slug("kaggle", config.handle)

    @cached_property
    def image_root(self) -> Path | None:
        """The folder below which images are read; fetched first where the version is not there yet."""
        return self._folder_source.image_root

    @cached_property
    def labeled(self) -> bool:
        """As the folder says."""
        return self._folder_source.labeled

    def compute_revision(self) -> str:
        """Digest of how the data set is read and of the version that it stands at now."""
        if self._config.version is None:
            self._version = self._client.find_newest_version()
            for listed in ("image_root", "labeled", "_folder_source"):
                self.__dict__.pop(listed, None)
            write_pin(self._root, self._slug, "newest", str(self._version))
        return json_digest([self._config.model_dump(mode="json", exclude={"version"}), self._version])

    def items(self) -> Iterator[Item]:
        """The folder's items; fetched first where the version is not there yet."""
        return self._folder_source.items()

    def pairs(self) -> Iterator[ScoredPair]:
        """The folder's."""
        return self._folder_source.pairs()

    @cached_property
    def _version(self) -> int:
        """The version that the config names or `revision` announced, in this process or an earlier one; else Kaggle's newest."""
        return self._config.version or int(read_pin(self._root, self._slug, "newest") or self._client.find_newest_version())

    @cached_property
    def _folder_source(self) -> FolderSource:
        folder = self._root.source(self._slug, str(self._version))
        if read_record(folder / INVENTORY_FILE, Inventory) is None:
            with lease(folder.with_name(f"{folder.name}.lease"), holder=f"process {os.getpid()}", wait=True):
                if read_record(folder / INVENTORY_FILE, Inventory) is None:  # nobody fetched it while we waited
                    self._fetch(folder)
        return FolderSource(_resolve_subdir(folder / "files", self._config.subdir), self._config)

    @cached_property
    def _client(self) -> KaggleClient:
        return KaggleClient(self._config.handle, self._retry_policy)

    def _fetch(self, folder: Path) -> None:
        """Download, check, unpack aside, move into place; then the inventory."""
        archive, files = folder / "archive", folder / "files"
        with track(f"fetching {self._config.handle}", 1) as advance, self._root.scratch.staging() as staging:
            folder.mkdir(parents=True, exist_ok=True)
            digest = self._client.download(self._version, archive)
            count, size = unpack_archive(archive, staging / "files", where=f"{self._config.handle}, version {self._version}")
            shutil.rmtree(files, ignore_errors=True)  # of a fetch that was killed before its inventory
            os.sync()  # what was unpacked, before the inventory can vouch for it
            commit(staging / "files", files)
            advance(1)
        inventory = Inventory(
            handle=self._config.handle, version=self._version, files=count, bytes=size,
            archive_bytes=archive.stat().st_size, archive_sha256=digest,
        )  # fmt: skip
        self._root.write_record(folder / INVENTORY_FILE, inventory)
        archive.unlink()


def _resolve_subdir(files: Path, subdir: str) -> Path:
    """The sub-folder, which has to lie in the data set."""
    folder = (files / subdir).resolve()
    if folder.is_dir() and folder.is_relative_to(files.resolve()):
        return folder
    available = [path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_dir()]
    raise InputError(
        "the data set has no such folder",
        where=f"dataset.subdir = {subdir}",
        expected="a folder of the data set",
        got=list_with_nearest(subdir, available),
        next_step="name one of them in dataset.subdir",
    )
