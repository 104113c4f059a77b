"""Shared parts of downloaded sources: folders, revision pins, retries and archives.

<root>/sources/<slug>/pin-*.json                 the revision that a moving name (a branch, `newest`) last pointed to
<root>/sources/<slug>/<revision>/inventory.json  written last: its presence proves the folder complete"""

from __future__ import annotations

import difflib
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, IndexmillError, InputError, SourceUnreachable
from indexmill.storage.names import is_relative_inside
from indexmill.storage.records import FrozenModel
from indexmill.storage.root import Root

INVENTORY_FILE = "inventory.json"

# Answers that another try may better: time-out, too many requests, and a server that is down or overrun.
TRANSIENT_STATUS_CODES = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")
R = TypeVar("R", bound=FrozenModel)


@dataclass(frozen=True)
class RetryPolicy:
    """How a provider is waited for.

    tries: attempts in all. wait_s: before the second, doubled each time up to longest_wait_s, which also bounds what a provider may ask
    for by Retry-After. timeout_s: how long a connection may be silent.
    """

    attempts: int = 4
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0
    timeout_s: float = 30.0


class RevisionPin(FrozenModel):
    """The revision that `name` stood for when the provider was last asked."""

    name: str
    revision: str


def make_slug(provider: str, name: str, *choices: object) -> str:
    """The folder's name: readable, and by its digest different for another data set or another choice of what is read of it."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return f"{provider}-{readable}-{json_digest([provider, name, *choices])[:8]}"


def read_record(path: Path, kind: type[R]) -> R | None:
    """The record that a file holds; None when it is not there."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None


def write_pin(root: Root, slug: str, name: str, revision: str) -> None:
    """Keep what `name` stands for, so that who lists the items reads the revision that was announced, with or without a network."""
    root.write_record(_get_pin_path(root, slug, name), RevisionPin(name=name, revision=revision))


def read_pin(root: Root, slug: str, name: str) -> str | None:
    """The revision that `name` was last found to stand for, if it ever was."""
    kept = read_record(_get_pin_path(root, slug, name), RevisionPin)
    return kept.revision if kept else None


def with_retries(
    call: Callable[[], T],
    retry_policy: RetryPolicy,
    *,
    where: str,
    transient_errors: tuple[type[Exception], ...],
    service: str = "the data set's provider",
) -> T:
    """What `call` returns, tried again as long as a passing fault or one of `transient_errors` ends it; SourceUnreachable when patience is over."""
    retrying = Retrying(
        retry=retry_if_exception(lambda error: is_transient(error, transient_errors)),
        wait=lambda state: _compute_wait(state, retry_policy),
        stop=stop_after_attempt(retry_policy.attempts),
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        if not is_transient(error, transient_errors):
            raise
        raise SourceUnreachable(
            f"{service} cannot be reached",
            where=where,
            expected="an answer",
            got=f"{type(error).__name__}: {error}".strip().splitlines()[0],
            next_step="look at the network and the provider's status, then run the build again: what was fetched is kept",
        ) from error


def is_transient(error: BaseException, transient_errors: tuple[type[Exception], ...]) -> bool:
    """Whether the fault, or one that caused it, is one that another try may better."""
    if isinstance(error, IndexmillError):
        return False
    return any(
        isinstance(link, (ConnectionError, TimeoutError, *transient_errors)) or get_http_status(link) in TRANSIENT_STATUS_CODES
        for link in _iterate_causes(error)
    )


def get_http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of requests or httpx stands for."""
    return getattr(getattr(error, "response", None), "status_code", None)


def require_commit_hash(commit: str | None, where: str) -> str:
    """The commit that a hub names, which becomes a folder's name. Raises InputError for what is none."""
    if not re.fullmatch("[0-9a-f]{40}", str(commit)):
        raise _build_unsafe_answer_error(where, "a commit, 40 digits", str(commit))
    return str(commit)


def require_relative_names(files: Iterable[str], where: str) -> None:
    """Raise InputError where a hub names a file that would lie outside of its repository."""
    if outside := [name for name in files if not is_relative_inside(name)]:
        raise _build_unsafe_answer_error(where, "files with paths inside of the repository", outside[0])


def _build_unsafe_answer_error(where: str, expected: str, got: str) -> InputError:
    return InputError(
        "what the hub says could lead out of the folder for it", where=where, expected=expected, got=got, next_step="tell its authors"
    )


def list_with_nearest(name: str, available: Iterable[str]) -> str:
    """`a, b, c; nearest: b` for an error message."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (", ".join(names) or "none") + (f"; nearest: {close[0]}" if close else "")


def _get_pin_path(root: Root, slug: str, name: str) -> Path:
    return root.source(slug, f"pin-{json_digest(name)[:8]}.json")


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _compute_wait(state: RetryCallState, retry_policy: RetryPolicy) -> float:
    """Seconds until the next try: what the provider asks for, else an exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    for link in _iterate_causes(error):
        retry_after = str(getattr(getattr(link, "response", None), "headers", {}).get("retry-after", ""))
        if retry_after.isdigit():
            return min(float(retry_after), retry_policy.max_wait_s)
    return wait_exponential_jitter(multiplier=retry_policy.first_wait_s, max=retry_policy.max_wait_s, jitter=retry_policy.first_wait_s / 2)(
        state
    )


def unpack_archive(archive: Path, folder: Path, *, where: str) -> tuple[int, int]:
    """Unpack a zip or tar archive whose members are all plain files and folders inside of `folder`; the files and their bytes.

    An archive that is refused is removed.
    """
    folder.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for member in packed.infolist():
                    mode = stat.S_IFMT(member.external_attr >> 16)
                    _check_member(is_relative_inside(member.filename) and mode in {0, stat.S_IFREG, stat.S_IFDIR}, member.filename, where)
                packed.extractall(folder)  # noqa: S202 (every member was looked at)
        else:
            with tarfile.open(archive) as bundle:
                for entry in bundle:
                    _check_member(is_relative_inside(entry.name) and (entry.isfile() or entry.isdir()), entry.name, where)
                bundle.extractall(folder, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        archive.unlink()
        raise build_archive_error(where, "a zip or tar archive", f"{type(error).__name__}: {error}") from None
    except InputError:
        archive.unlink()
        raise
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def build_archive_error(where: str, expected: str, got: str) -> DamagedFile:
    """The error of a download that is not what its provider says."""
    return DamagedFile(
        "a downloaded archive is not what the provider says it is",
        where=where,
        expected=expected,
        got=got,
        next_step="run the build again: the archive is fetched anew; if it stays so, tell the data set's owner",
    )


def _check_member(is_safe: bool, name: str, where: str) -> None:
    if not is_safe:
        raise InputError(
            "the archive holds a member that could write or read outside of its folder",
            where=f"{where}, member {name}",
            expected="plain files and folders with paths inside of the archive",
            got="a link, a device or a path that leads out",
            next_step="do not use this data set; tell its owner",
        )
