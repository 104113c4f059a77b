"""The Hugging Face Hub's side of the source: a commit looked up, its files fetched and checked, its rows read in a stream.

A small repository is fetched whole into the hub library's cache below the root, each file is checked against the digest that the hub
gives, and rows are read from there; a large one is read over the network, row by row. Nothing is written in the home directory: the
library's own way of loading by name would keep files there, whatever cache folder it is given.
"""

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
from indexmill.tasks.sources.downloads import Patience, check_names, commit_of, passes, patiently, status

FAULTS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)

T = TypeVar("T")


class Hub:
    """One data set on the hub. cache: the folder for the library's files."""

    def __init__(self, name: str, cache: Path, patience: Patience) -> None:
        self._name, self._cache, self._patience = name, cache, patience
        self._place = ""
        _bound_every_call(patience.timeout_s)
        os.environ.setdefault("HF_XET_CACHE", str(cache / "xet"))  # read by the hub's fast transfer, which takes no argument for it

    def commit(self, revision: str) -> str:
        """The full commit that a branch, tag or commit stands for; one small request."""
        return commit_of(self.ask(lambda: self._info(revision)).sha, self._name)

    def builder(self, commit: str, config: str | None, *, streaming_above: int) -> DatasetBuilder:
        """What reads the rows of a commit: from files fetched now, or over the network where they are larger than `streaming_above`."""
        info = self._info(commit, files=True)
        streaming = sum(file.size or 0 for file in info.siblings or []) > streaming_above
        self._place = f"hf://datasets/{self._name}@{commit}" if streaming else str(self._snapshot(info))
        named = {"path": f"hf://datasets/{self._name}", "revision": commit} if streaming else {"path": self._place}
        with _library_cache(self._cache / "hub"):
            return load_dataset_builder(**named, name=config, cache_dir=str(self._cache / "datasets"))

    @contextmanager
    def reading(self, config: str | None) -> Iterator[None]:
        """Turn what the libraries say of a data set that they cannot make out while the block runs into an InputError."""
        try:
            yield
        except (ValueError, TypeError, KeyError, RuntimeError, FileNotFoundError) as problem:
            if passes(problem, FAULTS) or status(problem):
                raise
            raise InputError(
                "the data set cannot be read",
                where=f"dataset.id = {self._name}, dataset.config = {config}",
                expected="a configuration of the data set, with data files and no program of its own",
                got=" ".join(f"{type(problem).__name__}: {problem}".split())[:400],
                next_step="mend dataset.config, or choose another data set",
            ) from problem

    def read(self, path: str) -> bytes:
        """The bytes of a file that a row names. A row may name files of its own data set only."""
        *packed, place = path.split("::")
        outside = not place.startswith(self._place + "/") or ".." in PurePosixPath(place).parts
        if outside or not all(archive.startswith("zip://") for archive in packed):
            raise InputError(
                "a row names a file outside of its data set",
                where=f"dataset.id = {self._name}",
                expected=f"a path below {self._place}",
                got=path,
                next_step="choose another dataset.image_column, or tell the data set's authors",
            )
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())

    def ask(self, call: Callable[[], T]) -> T:
        """What `call` returns, waited for with patience; a refusal of the hub becomes an InputError with what to do about it."""
        try:
            return patiently(call, self._patience, where=f"dataset.id = {self._name}, at {constants.ENDPOINT}", faults=FAULTS)
        except HfHubHTTPError as error:
            raise self._refused(error) from None

    def _info(self, revision: str, *, files: bool = False) -> DatasetInfo:
        return HfApi().dataset_info(self._name, revision=revision, timeout=self._patience.timeout_s, files_metadata=files)

    def _snapshot(self, info: DatasetInfo) -> Path:
        """The commit's files in the cache, each one whole: what a killed fetch had finished is kept."""
        check_names((file.rfilename for file in info.siblings or []), self._name)
        try:
            folder = Path(
                snapshot_download(
                    self._name,
                    repo_type="dataset",
                    revision=info.sha,
                    cache_dir=self._cache / "hub",
                    etag_timeout=self._patience.timeout_s,
                )
            )
        except OSError as problem:
            # The library tells of a file that came out too short or too long by an error without number or class of its own.
            if problem.errno is not None or passes(problem, FAULTS) or status(problem):
                raise
            raise _damaged(self._name, "a file as the hub describes it", str(problem)) from None
        for file in info.siblings or []:
            _check(folder / file.rfilename, file, self._name)
        return folder

    def _refused(self, error: HfHubHTTPError) -> InputError:
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
            got=f"HTTP status {status(error)}: {str(error).splitlines()[0]}",
            next_step=next_step,
        )


def _check(path: Path, file: RepoSibling, name: str) -> None:
    """Refuse a fetched file that is not what the hub says it holds, and forget it, so that the next fetch takes it anew."""
    if not path.exists():
        raise ConnectionError(f"{file.rfilename} did not arrive")  # the library gives what it has when the hub stops answering
    expected = f"SHA-256 {file.lfs.sha256}" if file.lfs else f"git blob {file.blob_id}"
    got = f"SHA-256 {file_digest(path)}" if file.lfs else f"git blob {_git_blob(path)}"
    if got != expected:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise _damaged(f"{name}, {file.rfilename}", expected, got)


def _git_blob(path: Path) -> str:
    """Git's own name of a file's content."""
    content = path.read_bytes()  # the hub keeps only files of a few megabytes outside of its large-file storage
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _damaged(where: str, expected: str, got: str) -> DamagedFile:
    return DamagedFile(
        "a downloaded file is not what the hub says it is",
        where=where,
        expected=expected,
        got=got,
        next_step="run the build again: the file is fetched anew; if it stays so, tell the data set's authors",
    )


@functools.lru_cache(maxsize=1)
def _bound_every_call(seconds: float) -> None:
    """Give every call of the hub's library a time-out: it names none for listing a repository, and its client then waits for ever."""

    def bound(request: httpx2.Request) -> None:
        named: dict[str, Any] = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {kind: named.get(kind) or seconds for kind in ("connect", "read", "write", "pool")}

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], bound]}
        return made

    set_client_factory(client)


@contextmanager
def _library_cache(folder: Path) -> Iterator[None]:
    """Let the library keep its files in `folder` while the block runs: where it takes no argument it reads this constant at each call."""
    kept, constants.HF_HUB_CACHE = constants.HF_HUB_CACHE, str(folder)
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = kept
