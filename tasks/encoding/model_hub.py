"""Fetch models from the Hugging Face Hub into its cache below HF_HOME, and find them there offline.

A folder of files is complete only when its record exists. The record is written last, so an interrupted download is resumed, not used."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from indexmill.storage import atomic
from indexmill.storage.digests import file_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.records import FrozenModel, read_record
from indexmill.tasks.hub_files import NETWORK_ERRORS, require_commit_hash, require_relative_names
from indexmill.tasks.retry import RetryPolicy, get_http_status, with_retries

HUB_RETRY = RetryPolicy(attempts=3, first_wait_s=0.5, max_wait_s=20.0, timeout_s=20.0)

T = TypeVar("T")
SelectFiles = Callable[[list[str]], list[str]]


class HubRecord(FrozenModel):
    """The files of a model that are all there, and the commit they were fetched from."""

    commit: str
    files: tuple[str, ...]


def fetch_folder(name: str, purpose: str, select: SelectFiles, *, key: str) -> Path:
    """The folder with those files of a model that `select` takes of all their names.

    purpose: names the record, since several encoders may want different files of one model. key: the config's, for errors.
    Raises InputError when the hub has no such model, SourceUnreachable when nothing is here and the hub does not answer.
    """
    return _fetch_model(name, purpose, select, key)[0]


def fetch_file(name: str, purpose: str, wanted: Sequence[str], *, key: str) -> Path:
    """The first of the wanted files that the model has; one that another program has put into the cache will do. Raises as above."""
    for file in wanted:
        cached = try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(cached, str):
            return Path(cached)
    folder, files = _fetch_model(name, purpose, lambda names: [file for file in wanted if file in names][:1], key)
    return folder / files[0]


def _fetch_model(name: str, purpose: str, select: SelectFiles, key: str) -> tuple[Path, tuple[str, ...]]:
    model_cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    record = model_cache / f"indexmill-{purpose}.json"
    if kept := read_record(record, HubRecord):
        folder = model_cache / "snapshots" / kept.commit
        if all((folder / file).is_file() for file in kept.files):
            return folder, kept.files
    info = _call_hub(lambda: HfApi().model_info(name, timeout=HUB_RETRY.timeout_s, files_metadata=True), name, key)
    commit = require_commit_hash(info.sha, f"{key} = {name}")
    files = _select_files(name, info, select, key)
    require_relative_names(files, f"{key} = {name}")
    for file in files:
        _download_file(name, info, file, key)
    _write_record(record, HubRecord(commit=commit, files=tuple(files)))
    return model_cache / "snapshots" / commit, tuple(files)


def _select_files(name: str, info: ModelInfo, select: SelectFiles, key: str) -> list[str]:
    names = [file.rfilename for file in info.siblings or []]
    if not (files := select(names)):
        raise InputError(
            "the model on the hub has no weights that this encoder can read",
            where=f"{key} = {name}",
            got=", ".join(sorted(names)[:20]) or "no files",
            next_step=f"mend {key}, or choose another encoder.kind",
        )
    return files


def _download_file(name: str, info: ModelInfo, file: str, key: str) -> None:
    options: dict[str, Any] = {"revision": info.sha, "cache_dir": constants.HF_HUB_CACHE, "etag_timeout": HUB_RETRY.timeout_s}
    path = _call_hub(lambda: hf_hub_download(name, file, **options), name, key)
    _check_digest(Path(path), next(sibling for sibling in info.siblings or [] if sibling.rfilename == file), name)


def _check_digest(path: Path, file: RepoSibling, name: str) -> None:
    """Refuse a fetched file whose digest is not the one that the hub gives (it does for large files), and forget it."""
    if file.lfs is None or (got := file_digest(path)) == file.lfs.sha256:
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise DamagedFile(
        "a downloaded file is not what the hub says it is",
        where=f"{name}, {file.rfilename}",
        expected=f"SHA-256 {file.lfs.sha256}",
        got=f"SHA-256 {got}",
        next_step="run the build again: the file is fetched anew; if it stays so, tell the model's authors",
    )


def _call_hub(call: Callable[[], T], name: str, key: str) -> T:
    """What `call` returns, waited for with patience; a refusal of the hub becomes an InputError with what to do about it."""
    where = f"{key} = {name}, at {constants.ENDPOINT}"
    try:
        return with_retries(call, HUB_RETRY, where=where, transient_errors=NETWORK_ERRORS, service="the hub that has the model")
    except (HfHubHTTPError, HFValidationError) as error:
        gated = isinstance(error, GatedRepoError)
        raise InputError(
            "the model is gated" if gated else "no such model on the hub, or a private one",
            where=where,
            got=f"HTTP status {get_http_status(error)}: {str(error).splitlines()[0]}",
            next_step=("accept its terms on its page, then " if gated else f"mend {key}, or ") + "log in with `hf auth login` or HF_TOKEN",
        ) from None


def _write_record(record: Path, fetched: HubRecord) -> None:
    with tempfile.TemporaryDirectory(dir=record.parent) as folder:
        temporary = Path(folder) / record.name
        temporary.write_text(fetched.model_dump_json(), encoding="utf-8")
        atomic.commit(temporary, record)
