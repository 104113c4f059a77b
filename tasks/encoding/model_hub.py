"""Download models from the Hugging Face Hub into its cache under HF_HOME, and find them there offline.

A model folder is complete only if its record exists. The record is written last, so an interrupted download is
resumed and never used."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
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
from indexmill.tasks.provider_answers import explain_answers
from indexmill.tasks.retry import RetryPolicy, get_http_status, with_retries

HUB_RETRY = RetryPolicy(attempts=3, first_wait_s=0.5, max_wait_s=20.0, timeout_s=20.0)

T = TypeVar("T")
SelectFiles = Callable[[list[str]], list[str]]


class HubRecord(FrozenModel):
    """The downloaded files of a model, and their commit."""

    commit: str
    files: tuple[str, ...]


def fetch_folder(name: str, purpose: str, select: SelectFiles, *, key: str) -> Path:
    """Return the folder of a model with the files that `select` chooses, downloading what is missing.

    Args:
        name: The model's id on the hub, ORG/NAME.
        purpose: Names the record: encoders of different kinds need different files of one model.
        select: Chooses from the names of all files.
        key: The config key that holds the name, for errors.

    Raises:
        InputError: The hub has no such model, or not the files.
        SourceUnreachable: The files are not cached and the hub does not answer.
    """
    return _fetch_model(name, purpose, select, key)[0]


def fetch_file(name: str, purpose: str, candidates: Sequence[str], *, key: str) -> Path:
    """Return the first of the candidate files that the model has; it may have been cached by another program.

    Args and errors are those of `fetch_folder`.
    """
    for file in candidates:
        cached = try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(cached, str):
            return Path(cached)
    folder, files = _fetch_model(name, purpose, lambda names: [file for file in candidates if file in names][:1], key)
    return folder / files[0]


def _fetch_model(name: str, purpose: str, select: SelectFiles, key: str) -> tuple[Path, tuple[str, ...]]:
    model_cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    record_path = model_cache / f"indexmill-{purpose}.json"
    if record := read_record(record_path, HubRecord):
        folder = model_cache / "snapshots" / record.commit
        if all((folder / file).is_file() for file in record.files):
            return folder, record.files
    info = _call_hub(partial(_fetch_info, name, key), name, key)
    commit = require_commit_hash(info.sha, f"{key} = {name}")
    files = _select_files(name, info, select, key)
    require_relative_names(files, f"{key} = {name}")
    for file in files:
        _download_file(name, info, file, key)
    _write_record(record_path, HubRecord(commit=commit, files=tuple(files)))
    return model_cache / "snapshots" / commit, tuple(files)


def _fetch_info(name: str, key: str) -> ModelInfo:
    where = f"{key} = {name}, at {constants.ENDPOINT}"
    with explain_answers(where=where, address_setting="HF_ENDPOINT", transient_errors=(*NETWORK_ERRORS, HFValidationError)):
        return HfApi().model_info(name, timeout=HUB_RETRY.timeout_s, files_metadata=True)


def _select_files(name: str, info: ModelInfo, select: SelectFiles, key: str) -> list[str]:
    names = [file.rfilename for file in info.siblings or []]
    if not (files := select(names)):
        raise InputError(
            "the model has no weights that this kind of encoder can read",
            where=f"{key} = {name}",
            got=", ".join(sorted(names)[:20]) or "no files",
            next_step=f"correct {key}, or choose another encoder.kind",
        )
    return files


def _download_file(name: str, info: ModelInfo, file: str, key: str) -> None:
    options: dict[str, Any] = {"revision": info.sha, "cache_dir": constants.HF_HUB_CACHE, "etag_timeout": HUB_RETRY.timeout_s}
    path = _call_hub(partial(hf_hub_download, name, file, **options), name, key)
    _check_digest(Path(path), next(sibling for sibling in info.siblings or [] if sibling.rfilename == file), name)


def _check_digest(path: Path, file: RepoSibling, name: str) -> None:
    """Delete a downloaded file with another digest than the hub's, and raise DamagedFile. Only large files have one."""
    if file.lfs is None or (digest := file_digest(path)) == file.lfs.sha256:
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise DamagedFile(
        "a downloaded file does not have the hub's digest",
        where=f"{name}, {file.rfilename}",
        expected=f"SHA-256 {file.lfs.sha256}",
        got=f"SHA-256 {digest}",
        next_step="run the build again to download the file again; if it fails again, contact the model's authors",
    )


def _call_hub(call: Callable[[], T], name: str, key: str) -> T:
    """Call the hub with retries; turn its refusals into InputErrors."""
    where = f"{key} = {name}, at {constants.ENDPOINT}"
    try:
        return with_retries(call, HUB_RETRY, where=where, transient_errors=NETWORK_ERRORS, service="the Hugging Face Hub")
    except (HfHubHTTPError, HFValidationError) as error:
        gated = isinstance(error, GatedRepoError)
        raise InputError(
            "the model is gated" if gated else "no such model on the hub, or it is private",
            where=where,
            got=f"HTTP status {get_http_status(error)}: {str(error).splitlines()[0]}",
            next_step=("accept its terms on its page, then " if gated else f"correct {key}, or ")
            + "log in with `hf auth login` or HF_TOKEN",
        ) from None


def _write_record(path: Path, record: HubRecord) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        temporary.write_text(record.model_dump_json(), encoding="utf-8")
        atomic.commit(temporary, path)
