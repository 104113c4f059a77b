"""Client for one data set on the Hugging Face Hub: resolve a commit, download and verify its files, stream its rows.

A small repository is downloaded whole into the library's cache below the root, and each file is verified against
the hub's digest. A large one is streamed row by row. Nothing is written to the home directory: loading by name
would keep files there, whatever cache folder it is given."""

from __future__ import annotations

import functools
import hashlib
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
from huggingface_hub.hf_api import DatasetInfo, RepoSibling
from huggingface_hub.utils._http import default_client_factory

from indexmill.storage.digests import file_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.tasks.sources.downloads import (
    RetryPolicy,
    get_http_status,
    is_transient,
    require_commit_hash,
    require_relative_names,
    with_retries,
)

NETWORK_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

T = TypeVar("T")


class HubDataset:
    """One data set on the hub. cache: the folder for the library's files."""

    def __init__(self, name: str, cache: Path, retry_policy: RetryPolicy) -> None:
        self._name, self._cache, self._retry_policy = name, cache, retry_policy
        self._location = ""
        _set_default_timeout(retry_policy.timeout_s)
        os.environ.setdefault("HF_XET_CACHE", str(cache / "xet"))  # read by the hub's fast transfer, which takes no argument for it

    def resolve_commit(self, revision: str) -> str:
        """The full commit that a branch, tag or commit stands for; one small request."""
        return require_commit_hash(self.call_with_retries(lambda: self._fetch_info(revision)).sha, self._name)

    def load_builder(self, commit: str, config: str | None, *, streaming_above_bytes: int) -> DatasetBuilder:
        """What reads the rows of a commit: from files fetched now, or over the network where they are larger than `streaming_above_bytes`."""
        info = self._fetch_info(commit, files=True)
        streaming = sum(file.size or 0 for file in info.siblings or []) > streaming_above_bytes
        self._location = f"hf://datasets/{self._name}@{commit}" if streaming else str(self._download_snapshot(info))
        named = {"path": f"hf://datasets/{self._name}", "revision": commit} if streaming else {"path": self._location}
        with _use_hub_cache(self._cache / "hub"):
            return load_dataset_builder(**named, name=config, cache_dir=str(self._cache / "datasets"))

    @contextmanager
    def translate_read_errors(self, config: str | None) -> Iterator[None]:
        """Turn what the libraries say of a data set that they cannot make out while the block runs into an InputError."""
        try:
            yield
        except (ValueError, TypeError, KeyError, RuntimeError, FileNotFoundError) as error:
            if is_transient(error, NETWORK_ERRORS) or get_http_status(error):
                raise
            raise InputError(
                "the data set cannot be read",
                where=f"dataset.id = {self._name}, dataset.config = {config}",
                expected="a configuration of the data set, with data files and no program of its own",
                got=" ".join(f"{type(error).__name__}: {error}".split())[:400],
                next_step="mend dataset.config, or choose another data set",
            ) from error

    def read_file(self, path: str) -> bytes:
        """The bytes of a file that a row names. A row may name files of its own data set only."""
        *packed, location = path.split("::")
        outside = not location.startswith(self._location + "/") or ".." in PurePosixPath(location).parts
        if outside or not all(archive.startswith("zip://") for archive in packed):
            raise InputError(
                "a row names a file outside of its data set",
                where=f"dataset.id = {self._name}",
                expected=f"a path below {self._location}",
                got=path,
                next_step="choose another dataset.image_column, or tell the data set's authors",
            )
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())

    def call_with_retries(self, call: Callable[[], T]) -> T:
        """What `call` returns, waited for with patience; a refusal of the hub becomes an InputError with what to do about it."""
        try:
            return with_retries(
                call, self._retry_policy, where=f"dataset.id = {self._name}, at {constants.ENDPOINT}", transient_errors=NETWORK_ERRORS
            )
        except HfHubHTTPError as error:
            raise self._build_refusal_error(error) from None

    def _fetch_info(self, revision: str, *, files: bool = False) -> DatasetInfo:
        return HfApi().dataset_info(self._name, revision=revision, timeout=self._retry_policy.timeout_s, files_metadata=files)

    def _download_snapshot(self, info: DatasetInfo) -> Path:
        """The commit's files in the cache, each one whole: what a killed fetch had finished is kept."""
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
            # The library tells of a file that came out too short or too long by an error without number or class of its own.
            if error.errno is not None or is_transient(error, NETWORK_ERRORS) or get_http_status(error):
                raise
            raise _build_damaged_file_error(self._name, "a file as the hub describes it", str(error)) from None
        for file in info.siblings or []:
            _verify_file(folder / file.rfilename, file, self._name)
        return folder

    def _build_refusal_error(self, error: HfHubHTTPError) -> InputError:
        match error:
            case GatedRepoError():
                what, next_step = "the data set is gated", "accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN"
            case RevisionNotFoundError():
                what, next_step = "the data set has no such revision", "name a branch, tag or commit that it has in dataset.revision"
            case RepositoryNotFoundError():
                what = "the data set is not on the hub, or is private"
                next_step = "mend dataset.id, or log in with `hf auth login` or HF_TOKEN"
            case _:
                what, next_step = "the hub refuses the request", "log in with `hf auth login` or HF_TOKEN, or look at the data set's page"
        return InputError(
            what,
            where=f"dataset.id = {self._name}, at {constants.ENDPOINT}",
            expected="a data set and a revision that can be read",
            got=f"HTTP status {get_http_status(error)}: {str(error).splitlines()[0]}",
            next_step=next_step,
        )


def _verify_file(path: Path, file: RepoSibling, name: str) -> None:
    """Refuse a fetched file that is not what the hub says it holds, and forget it, so that the next fetch takes it anew."""
    if not path.exists():
        raise ConnectionError(f"{file.rfilename} did not arrive")  # the library gives what it has when the hub stops answering
    expected = f"SHA-256 {file.lfs.sha256}" if file.lfs else f"git blob {file.blob_id}"
    got = f"SHA-256 {file_digest(path)}" if file.lfs else f"git blob {_compute_git_blob_id(path)}"
    if got != expected:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise _build_damaged_file_error(f"{name}, {file.rfilename}", expected, got)


def _compute_git_blob_id(path: Path) -> str:
    """Git's own name of a file's content."""
    content = path.read_bytes()  # the hub keeps only files of a few megabytes outside of its large-file storage
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _build_damaged_file_error(where: str, expected: str, got: str) -> DamagedFile:
    return DamagedFile(
        "a downloaded file is not what the hub says it is",
        where=where,
        expected=expected,
        got=got,
        next_step="run the build again: the file is fetched anew; if it stays so, tell the data set's authors",
    )


@functools.lru_cache(maxsize=1)
def _set_default_timeout(seconds: float) -> None:
    """Give every call of the hub's library a time-out: it names none for listing a repository, and its client then waits for ever."""

    def set_timeout(request: httpx2.Request) -> None:
        named: dict[str, Any] = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {kind: named.get(kind) or seconds for kind in ("connect", "read", "write", "pool")}

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], set_timeout]}
        return made

    set_client_factory(client)


@contextmanager
def _use_hub_cache(folder: Path) -> Iterator[None]:
    """Let the library keep its files in `folder` while the block runs: where it takes no argument it reads this constant at each call."""
    previous, constants.HF_HUB_CACHE = constants.HF_HUB_CACHE, str(folder)
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = previous
