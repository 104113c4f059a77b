"""A Kaggle data set, pinned to a version, downloaded and unpacked once per version, then read as a folder of images.

<root>/sources/<slug>/<version>/archive           a download in progress; resumed after an interruption
<root>/sources/<slug>/<version>/files/…           the content of the archive
<root>/sources/<slug>/<version>/inventory.json    written last
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from indexmill.configs.datasets import KaggleDatasetConfig
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.locks import lease
from indexmill.storage.records import FrozenModel, Modality, read_record
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.downloads import (
    INVENTORY_FILE,
    list_with_nearest,
    make_slug,
    read_pin,
    unpack_archive,
    write_pin,
)
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.sources.kaggle_client import KaggleClient


class Inventory(FrozenModel):
    """The content of a version's folder: number and bytes of the unpacked files, size and SHA-256 of the archive."""

    handle: str
    version: int
    file_count: int
    unpacked_bytes: int
    archive_bytes: int
    archive_sha256: str


class KaggleSource:
    """The images of one version below `subdir`. Kaggle is contacted only when its answer is needed."""

    modality: Modality = "image"

    def __init__(self, config: KaggleDatasetConfig, root: Root, retry_policy: RetryPolicy | None = None) -> None:
        self._config, self._root, self._retry_policy = config, root, retry_policy or RetryPolicy()
        self._slug = make_slug("kaggle", config.handle)
        self._version = config.version
        self._opened_folder: tuple[int, FolderSource] | None = None

    @property
    def image_root(self) -> Path | None:
        """The folder that image paths are relative to; downloads the version if necessary."""
        return self._open_folder().image_root

    @property
    def labeled(self) -> bool:
        """Whether the folder's items have labels; downloads the version if necessary."""
        return self._open_folder().labeled

    @property
    def skipped(self) -> Counter[str]:
        """Files of the folder that are no items, by suffix or kind."""
        return self._open_folder().skipped

    def compute_revision(self) -> str:
        """Return a digest of the config and the version. Without `dataset.version`, pins Kaggle's newest version."""
        if self._config.version is None:
            self._version = self._client.find_newest_version()
            write_pin(self._root, self._slug, "newest", str(self._version))
        return json_digest([self._config.model_dump(mode="json", exclude={"version"}), self._version])

    def items(self) -> Iterator[Item]:
        """Yield the folder's items; downloads the version if necessary."""
        return self._open_folder().items()

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield the folder's pairs: none."""
        return self._open_folder().pairs()

    @cached_property
    def _client(self) -> KaggleClient:
        return KaggleClient(self._config.handle, self._retry_policy)

    def _resolve_version(self) -> int:
        """Return the configured or last computed version, else the pinned one, else Kaggle's newest."""
        if self._version is None:
            self._version = int(read_pin(self._root, self._slug, "newest") or self._client.find_newest_version())
        return self._version

    def _open_folder(self) -> FolderSource:
        version = self._resolve_version()
        if self._opened_folder is None or self._opened_folder[0] != version:
            folder = self._root.source(self._slug, str(version))
            if read_record(folder / INVENTORY_FILE, Inventory) is None:
                with lease(folder.with_name(f"{folder.name}.lease"), holder=f"process {os.getpid()}", wait=True):
                    if read_record(folder / INVENTORY_FILE, Inventory) is None:  # no other process has downloaded it meanwhile
                        self._download(version, folder)
            self._opened_folder = version, FolderSource(_resolve_subdir(folder / "files", self._config.subdir), self._config)
        return self._opened_folder[1]

    def _download(self, version: int, folder: Path) -> None:
        """Download, verify and unpack the archive, move the files into place, then write the inventory."""
        archive, files = folder / "archive", folder / "files"
        with track(f"downloading {self._config.handle}", 1) as advance, self._root.scratch.staging() as staging:
            folder.mkdir(parents=True, exist_ok=True)
            archive_sha256 = self._client.download(version, archive)
            where = f"{self._config.handle}, version {version}"
            file_count, unpacked_bytes = unpack_archive(archive, staging / "files", where=where)
            shutil.rmtree(files, ignore_errors=True)  # left by a download that was killed before its inventory was written
            os.sync()  # the files must be on disk before the inventory declares them complete
            commit(staging / "files", files)
            advance(1)
        inventory = Inventory(
            handle=self._config.handle,
            version=version,
            file_count=file_count,
            unpacked_bytes=unpacked_bytes,
            archive_bytes=archive.stat().st_size,
            archive_sha256=archive_sha256,
        )
        self._root.write_record(folder / INVENTORY_FILE, inventory)
        archive.unlink()


def _resolve_subdir(files: Path, subdir: str) -> Path:
    """Return the subfolder, which must be inside the data set."""
    folder = (files / subdir).resolve()
    if folder.is_dir() and folder.is_relative_to(files.resolve()):
        return folder
    available = [path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_dir()]
    raise InputError(
        "the data set has no such folder",
        where=f"dataset.subdir = {subdir}",
        expected="a folder of the data set",
        got=list_with_nearest(subdir, available),
        next_step="set dataset.subdir to one of them",
    )
