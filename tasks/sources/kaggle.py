"""A Kaggle data set, pinned to a version, downloaded and unpacked once a version, then read as a folder of images.

<root>/sources/<slug>/<version>/archive           a download under way; goes on where it was cut
<root>/sources/<slug>/<version>/files/…           what the archive held
<root>/sources/<slug>/<version>/inventory.json    written last

kagglehub's client and its resuming download are used, but not its `dataset_download`: that waits for ever on a silent server, believes
an archive of the right length whatever it holds, and unpacks it before anyone can look inside.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import requests
from kagglehub.clients import build_kaggle_client, download_file
from kagglehub.exceptions import DataCorruptionError
from kagglehub.handle import DatasetHandle, parse_dataset_handle
from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest, ApiGetDatasetRequest
from requests.adapters import HTTPAdapter

from configs.models import KaggleDataset
from storage.atomic import commit
from storage.digests import json_digest
from storage.errors import DamagedFile, InputError
from storage.lease import lease
from storage.records import Frozen, Modality
from storage.root import Root
from tasks.progress import track
from tasks.sources.archives import check_download, damaged, unpack
from tasks.sources.downloads import INVENTORY, Patience, nearest, patiently, pin, pinned, read_record, slug, status
from tasks.sources.folder import FolderSource
from tasks.sources.listing import Item, Pair

FAULTS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

T = TypeVar("T")


class Inventory(Frozen):
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

    def __init__(self, config: KaggleDataset, root: Root, patience: Patience | None = None) -> None:
        self._config, self._root, self._patience = config, root, patience or Patience()
        self._slug = slug("kaggle", config.handle)

    @cached_property
    def base(self) -> Path | None:
        """The folder below which images are read; fetched first where the version is not there yet."""
        return self._images.base

    @cached_property
    def labelled(self) -> bool:
        """As the folder says."""
        return self._images.labelled

    def revision(self) -> str:
        """Digest of how the data set is read and of the version that it stands at now."""
        if self._config.version is None:
            self._version = self._newest()
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
        return self._config.version or int(pinned(self._root, self._slug, "newest") or self._newest())

    @cached_property
    def _images(self) -> FolderSource:
        folder = self._root.source(self._slug, str(self._version))
        if read_record(folder / INVENTORY, Inventory) is None:
            with lease(folder.with_name(f"{folder.name}.lease"), holder=f"process {os.getpid()}", wait=True):
                if read_record(folder / INVENTORY, Inventory) is None:  # nobody fetched it while we waited
                    self._fetch(folder)
        return FolderSource(_below(folder / "files", self._config.subdir), self._config)

    def _newest(self) -> int:
        request = ApiGetDatasetRequest()
        handle: DatasetHandle = parse_dataset_handle(self._config.handle)
        request.owner_slug, request.dataset_slug = handle.owner, handle.dataset
        return int(self._ask(lambda api: api.get_dataset(request)).current_version_number)

    def _fetch(self, folder: Path) -> None:
        """Download, check, unpack aside, move into place; then the inventory."""
        archive, files = folder / "archive", folder / "files"
        with track(f"fetching {self._config.handle}", 1) as advance, self._root.scratch.staging() as staging:
            folder.mkdir(parents=True, exist_ok=True)
            digest = self._ask(lambda api: self._download(api, archive))
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

    def _download(self, api: Any, archive: Path) -> str:
        """Bring the archive to disk, going on where an earlier try was cut; its SHA-256."""
        handle: DatasetHandle = parse_dataset_handle(f"{self._config.handle}/versions/{self._version}")
        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug, request.dataset_version_number = handle.owner, handle.dataset, handle.version
        resumed = archive.exists()
        try:
            with api.download_dataset(request) as response:
                download_file(response, str(archive), handle)
                return check_download(archive, response, where=str(handle))
        except (DataCorruptionError, DamagedFile) as problem:
            if resumed:
                raise ConnectionError("the rest of a cut download did not fit its beginning") from problem  # both are gone: start anew
            raise problem if isinstance(problem, DamagedFile) else damaged(str(handle), "the provider's MD5", _told(problem)) from None

    def _ask(self, call: Callable[[Any], T]) -> T:
        """What `call` returns for Kaggle's data set API, waited for with patience; a refusal becomes an InputError."""

        def attempt() -> T:
            with build_kaggle_client() as client:
                session = client.http_client()._session
                for scheme in ("http://", "https://"):
                    session.mount(scheme, _Bounded(self._patience.timeout_s))
                return call(client.datasets.dataset_api_client)

        try:
            return patiently(attempt, self._patience, where=f"dataset.handle = {self._config.handle}", faults=FAULTS)
        except requests.HTTPError as error:
            raise self._refused(error) from None

    def _refused(self, error: requests.HTTPError) -> InputError:
        match status(error):
            case 401 | 403:
                what = "Kaggle refuses access to the data set"
                next_step = "log in (KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY), and accept the data set's terms on its page"
            case 404:
                what = "Kaggle has no such data set or version"
                next_step = "mend dataset.handle or dataset.version"
            case _:
                what, next_step = "Kaggle refuses the request", "look at the data set's page"
        return InputError(
            what,
            where=f"dataset.handle = {self._config.handle}, dataset.version = {self._config.version or 'newest'}",
            expected="a data set and a version that can be read",
            got=f"HTTP status {status(error)}: {str(error).splitlines()[0]}",
            next_step=next_step,
        )


def _told(problem: Exception) -> str:
    """The last thing that an error says."""
    return str(problem).strip().splitlines()[-1].strip()


class _Bounded(HTTPAdapter):
    """Gives every request a time-out: kagglehub's client names none."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        super().__init__()

    def send(self, *args: Any, **named: Any) -> requests.Response:
        return super().send(*args, **{**named, "timeout": named.get("timeout") or self._seconds})


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
