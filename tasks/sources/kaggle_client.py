"""Client for one Kaggle data set: find the newest version, download and verify the archive of a version.

Uses kagglehub's client and resumable download, but not `dataset_download`, which waits forever on a silent server,
accepts any archive of the right length, and unpacks it before it can be verified.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests
from kagglehub.clients import build_kaggle_client, download_file
from kagglehub.exceptions import DataCorruptionError
from kagglehub.handle import parse_dataset_handle
from kagglehub.integrity import get_md5_checksum_from_response
from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest, ApiGetDatasetRequest
from requests.adapters import HTTPAdapter

from indexmill.storage.digests import file_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.tasks.provider_answers import explain_answers
from indexmill.tasks.retry import RetryPolicy, get_http_status, with_retries
from indexmill.tasks.sources.downloads import build_archive_error

NETWORK_ERRORS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

T = TypeVar("T")


class KaggleClient:
    """One data set on Kaggle, by its handle `owner/name`."""

    def __init__(self, handle: str, retry_policy: RetryPolicy) -> None:
        self._handle, self._retry_policy = handle, retry_policy
        logging.getLogger("kagglehub").setLevel(logging.WARNING)  # it logs every step to standard output

    def find_newest_version(self) -> int:
        """Return the number of the newest version, by one small request."""
        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self._handle.split("/")
        version = int(self._call_api(lambda api: api.get_dataset(request)).current_version_number)
        if version > 0:
            return version
        raise InputError(
            "Kaggle names no version of the data set",
            where=f"dataset.handle = {self._handle}",
            expected="the number of the newest version",
            got=str(version),
            next_step="set dataset.version, or check the network: a proxy or a guest network may answer instead",
        )

    def download(self, version: int, archive: Path) -> str:
        """Download a version's archive and return its SHA-256. An interrupted download is resumed.

        Raises:
            DamagedFile: The archive does not have the size or MD5 that Kaggle states. It is deleted.
            InputError: Kaggle refuses the request.
            SourceUnreachable: Kaggle does not respond.
        """
        return self._call_api(lambda api: self._download(api, version, archive))

    def _download(self, api: Any, version: int, archive: Path) -> str:
        handle = parse_dataset_handle(f"{self._handle}/versions/{version}")
        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug, request.dataset_version_number = handle.owner, handle.dataset, handle.version
        is_resumed = archive.exists()
        try:
            with api.download_dataset(request) as response:
                download_file(response, str(archive), handle)
                return _verify_archive(archive, response, where=str(handle))
        except (DataCorruptionError, DamagedFile) as error:
            if is_resumed:  # the file is deleted, so a retry starts over
                raise ConnectionError("the resumed part does not match the start of the download") from error
            if isinstance(error, DamagedFile):
                raise
            raise build_archive_error(str(handle), "Kaggle's MD5", _get_last_line(error)) from None

    def _call_api(self, call: Callable[[Any], T]) -> T:
        """Call Kaggle's data set API with retries. A refusal becomes an InputError."""

        def attempt() -> T:
            with build_kaggle_client() as client:
                session = client.http_client()._session
                for scheme in ("http://", "https://"):
                    session.mount(scheme, _TimeoutAdapter(self._retry_policy.timeout_s))
                with explain_answers(
                    where=f"dataset.handle = {self._handle}",
                    address_setting="KAGGLE_API_ENVIRONMENT",
                    transient_errors=(*NETWORK_ERRORS, DataCorruptionError),
                ):
                    return call(client.datasets.dataset_api_client)

        try:
            return with_retries(attempt, self._retry_policy, where=f"dataset.handle = {self._handle}", transient_errors=NETWORK_ERRORS)
        except requests.HTTPError as error:
            raise self._build_refusal_error(error) from None

    def _build_refusal_error(self, error: requests.HTTPError) -> InputError:
        match get_http_status(error):
            case 401 | 403:
                message = "Kaggle denies access to the data set"
                next_step = "log in (set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY), and accept the data set's terms on its page"
            case 404:
                message = "Kaggle has no such data set or version"
                next_step = "correct dataset.handle or dataset.version"
            case _:
                message, next_step = "Kaggle rejects the request", "check the data set's page"
        return InputError(
            message,
            where=f"dataset.handle = {self._handle}",
            expected="a data set and a version that you can access",
            got=f"HTTP status {get_http_status(error)}: {str(error).splitlines()[0]}",
            next_step=next_step,
        )


def _get_last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


class _TimeoutAdapter(HTTPAdapter):
    """Give every request a timeout, since kagglehub's client sets none."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        super().__init__()

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(*args, **{**kwargs, "timeout": kwargs.get("timeout") or self._timeout_s})


def _verify_archive(archive: Path, response: requests.Response, *, where: str) -> str:
    """Return the archive's SHA-256 after comparing its size and MD5 with those in the response's headers, if any.

    Raises DamagedFile, and deletes the archive, if they differ.
    """
    size, md5 = response.headers.get("Content-Length"), get_md5_checksum_from_response(response)
    expected, got = [], []
    if size is not None and "Content-Encoding" not in response.headers:
        expected.append(f"{size} bytes")
        got.append(f"{archive.stat().st_size} bytes")
    if md5 is not None:
        expected.append(f"MD5 {md5}")
        got.append(f"MD5 {_compute_md5(archive)}")
    if got != expected:
        archive.unlink()
        raise build_archive_error(where, ", ".join(expected), ", ".join(got))
    return file_digest(archive)


def _compute_md5(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()).decode()
