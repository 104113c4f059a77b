"""Client for one data set on the Hugging Face Hub: resolve a commit, download and verify its files, stream its rows.

A small repository is downloaded whole into the library's cache below the root, and each file is verified against
the hub's digest. A large one is streamed row by row. Nothing is written to the home directory. Loading by name would
write there, even if it is given a cache folder.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
import httpx2
from datasets import DatasetBuilder, load_dataset_builder
from huggingface_hub import HfApi, constants, set_client_factory, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import DatasetInfo
from huggingface_hub.utils._http import default_client_factory

from indexmill.storage.errors import InputError
from indexmill.tasks.hub_files import (
    NETWORK_ERRORS,
    build_damaged_file_error,
    require_commit_hash,
    require_relative_names,
    verify_file,
)
from indexmill.tasks.provider_answers import explain_answers
from indexmill.tasks.retry import RetryPolicy, get_http_status, is_transient, with_retries

T = TypeVar("T")


class HubDataset:
    """One data set on the hub.

    Args:
        name: The data set's id, `owner/name`.
        cache: The folder for the library's files.
        retry_policy: Attempts, waits and timeout of every request.
    """

    def __init__(self, name: str, cache: Path, retry_policy: RetryPolicy) -> None:
        self._name, self._cache, self._retry_policy = name, cache, retry_policy
        self._location = ""
        _set_default_timeout(retry_policy.timeout_s)
        os.environ.setdefault("HF_XET_CACHE", str(cache / "xet"))  # the fast transfer has no argument for it

    def resolve_commit(self, revision: str) -> str:
        """Return the full commit that a branch, tag or commit points to, by one small request."""
        info = self.call_with_retries(functools.partial(self._fetch_info, revision))
        return require_commit_hash(info.sha, self._name)

    def load_builder(self, commit: str, config: str | None, *, streaming_above_bytes: int) -> DatasetBuilder:
        """Return the library's reader for the rows of a commit.

        Downloads the files first, or streams them if they are larger than `streaming_above_bytes` in all.
        """
        info = self._fetch_info(commit, files=True)
        streaming = sum(file.size or 0 for file in info.siblings or []) > streaming_above_bytes
        self._location = f"hf://datasets/{self._name}@{commit}" if streaming else str(self._download_snapshot(info))
        source = {"path": f"hf://datasets/{self._name}", "revision": commit} if streaming else {"path": self._location}
        with _use_hub_cache(self._cache / "hub"):
            return load_dataset_builder(**source, name=config, cache_dir=str(self._cache / "datasets"))

    def download(self, commit: str) -> Path:
        """Download the files of a commit, unless they are in the cache, and return their folder."""
        return self.call_with_retries(lambda: self._download_snapshot(self._fetch_info(commit, files=True)))

    @contextmanager
    def translate_read_errors(self, config: str | None) -> Iterator[None]:
        """Turn the libraries' errors about an unreadable data set into an InputError while the block runs."""
        try:
            yield
        except (ValueError, TypeError, KeyError, RuntimeError, FileNotFoundError) as error:
            if is_transient(error, NETWORK_ERRORS) or get_http_status(error):
                raise
            raise InputError(
                "the data set cannot be read",
                where=f"dataset.id = {self._name}, dataset.config = {config}",
                expected="a configuration with data files and without a loading script",
                got=" ".join(f"{type(error).__name__}: {error}".split())[:400],
                next_step="correct dataset.config, or choose another data set",
            ) from error

    def read_file(self, path: str) -> bytes:
        """Return the bytes of a file that a row names. Raises InputError if it is not part of the data set."""
        *members, location = path.split("::")
        is_outside = not location.startswith(self._location + "/") or ".." in PurePosixPath(location).parts
        if is_outside or not all(member.startswith("zip://") for member in members):
            raise InputError(
                "a row names a file outside of its data set",
                where=f"dataset.id = {self._name}",
                expected=f"a path below {self._location}",
                got=path,
                next_step="choose another dataset.image_column, or report it to the data set's authors",
            )
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())

    def call_with_retries(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, with retries. A refusal by the hub becomes an InputError."""
        try:
            return with_retries(
                call, self._retry_policy, where=f"dataset.id = {self._name}, at {constants.ENDPOINT}", transient_errors=NETWORK_ERRORS
            )
        except HfHubHTTPError as error:
            raise self._build_refusal_error(error) from None

    def _fetch_info(self, revision: str, *, files: bool = False) -> DatasetInfo:
        where = f"dataset.id = {self._name}, at {constants.ENDPOINT}"
        with explain_answers(where=where, address_setting="HF_ENDPOINT", transient_errors=NETWORK_ERRORS):
            return HfApi().dataset_info(self._name, revision=revision, timeout=self._retry_policy.timeout_s, files_metadata=files)

    def _download_snapshot(self, info: DatasetInfo) -> Path:
        """Download the commit's files into the cache and verify each. Files already in the cache are kept."""
        require_relative_names((file.rfilename for file in info.siblings or []), self._name)
        try:
            folder = Path(
                snapshot_download(
                    self._name,
                    repo_type="dataset",
                    revision=info.sha,
                    cache_dir=self._cache / "hub",
                    etag_timeout=self._retry_policy.timeout_s,
                )
            )
        except OSError as error:
            # The library reports a file of the wrong size by a plain OSError without a number.
            if error.errno is not None or is_transient(error, NETWORK_ERRORS) or get_http_status(error):
                raise
            raise build_damaged_file_error(self._name, "a file of the size that the hub states", str(error)) from None
        for file in info.siblings or []:
            path = folder / file.rfilename
            if not path.exists():  # the library returns an incomplete folder if the hub stops responding
                raise ConnectionError(f"{file.rfilename} was not downloaded")
            verify_file(path, file, self._name)
        return folder

    def _build_refusal_error(self, error: HfHubHTTPError) -> InputError:
        match error:
            case GatedRepoError():
                message = "the data set is gated"
                next_step = "accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN"
            case RevisionNotFoundError():
                message = "the data set has no such revision"
                next_step = "set dataset.revision to a branch, tag or commit of the data set"
            case RepositoryNotFoundError():
                message = "the data set is not on the hub, or is private"
                next_step = "correct dataset.id, or log in with `hf auth login` or set HF_TOKEN"
            case _:
                message = "the hub rejects the request"
                next_step = "log in with `hf auth login` or set HF_TOKEN, or check the data set's page"
        return InputError(
            message,
            where=f"dataset.id = {self._name}, at {constants.ENDPOINT}",
            expected="a data set and a revision that you can access",
            got=f"HTTP status {get_http_status(error)}: {str(error).splitlines()[0]}",
            next_step=next_step,
        )


@functools.lru_cache(maxsize=1)
def _set_default_timeout(timeout_s: float) -> None:
    """Give every request of the hub's library a timeout. Without one, listing a repository can wait forever."""

    def set_timeout(request: httpx2.Request) -> None:
        timeouts: dict[str, Any] = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {phase: timeouts.get(phase) or timeout_s for phase in ("connect", "read", "write", "pool")}

    def create_client() -> httpx2.Client:
        client = default_client_factory()
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], set_timeout]}
        return client

    set_client_factory(create_client)


@contextmanager
def _use_hub_cache(folder: Path) -> Iterator[None]:
    """Redirect the library's cache while the block runs. Some of its calls take no argument and read this constant."""
    previous, constants.HF_HUB_CACHE = constants.HF_HUB_CACHE, str(folder)
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = previous
