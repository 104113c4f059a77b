"""Check what the Hugging Face Hub returns: commits, file names and downloaded files, of data sets and models alike."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from indexmill.storage.digests import file_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.names import is_relative_inside

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

NETWORK_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


def is_commit_hash(revision: str | None) -> bool:
    """Return whether a revision is a full commit hash rather than a branch or tag."""
    return re.fullmatch("[0-9a-f]{40}", str(revision)) is not None


def require_commit_hash(commit: str | None, where: str) -> str:
    """Return the commit, which becomes a folder's name. Raises InputError if it is not a full commit hash."""
    if not is_commit_hash(commit):
        raise _build_unsafe_answer_error(where, "a commit hash of 40 hexadecimal digits", str(commit))
    return str(commit)


def require_relative_names(names: Iterable[str], where: str) -> None:
    """Raise InputError if a file name leads out of its repository."""
    if outside := [name for name in names if not is_relative_inside(name)]:
        raise _build_unsafe_answer_error(where, "file paths inside the repository", outside[0])


def verify_file(path: Path, file: RepoSibling, where: str) -> None:
    """Compare a downloaded file with the hub's digest: SHA-256 for large files, git's blob id for the others.

    Raises:
        DamagedFile: The digests differ. The file is deleted, so the next build downloads it again.
    """
    expected = f"SHA-256 {file.lfs.sha256}" if file.lfs else f"git blob {file.blob_id}"
    got = f"SHA-256 {file_digest(path)}" if file.lfs else f"git blob {_compute_git_blob_id(path)}"
    if got != expected:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise build_damaged_file_error(f"{where}, {file.rfilename}", expected, got)


def build_damaged_file_error(where: str, expected: str, got: str) -> DamagedFile:
    """Build the error for a download that differs from the hub's description."""
    return DamagedFile(
        "a downloaded file does not match the hub's digest or size",
        where=where,
        expected=expected,
        got=got,
        next_step="run the build again: the file is downloaded again; if the error persists, report it to the repository's authors",
    )


def _compute_git_blob_id(path: Path) -> str:
    content = path.read_bytes()  # the hub keeps larger files in its large-file storage, so this one has a few megabytes at most
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _build_unsafe_answer_error(where: str, expected: str, got: str) -> InputError:
    return InputError(
        "the hub returned a name that could lead out of the download folder",
        where=where,
        expected=expected,
        got=got,
        next_step="do not use this repository; report it to its authors",
    )
