"""What every downloaded source shares: where it lies under the root, how its inventory proves it whole, and how long to be patient.

<root>/sources/<slug>/pin-*.json                 which revision a moving name (a branch, `newest`) was last found to stand for
<root>/sources/<slug>/<revision>/inventory.json  written last: its presence proves the rest of the folder complete
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from indexmill.storage.digests import json_digest
from indexmill.storage.errors import IndexmillError, InputError, SourceUnreachable
from indexmill.storage.names import is_relative_inside
from indexmill.storage.records import FrozenModel
from indexmill.storage.root import Root

INVENTORY = "inventory.json"

# Answers that another try may better: time-out, too many requests, and a server that is down or overrun.
PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")
R = TypeVar("R", bound=FrozenModel)


@dataclass(frozen=True)
class Patience:
    """How a provider is waited for.

    tries: attempts in all. wait_s: before the second, doubled each time up to longest_wait_s, which also bounds what a provider may ask
    for by Retry-After. timeout_s: how long a connection may be silent.
    """

    tries: int = 4
    wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = 30.0


class Pin(FrozenModel):
    """The revision that `name` stood for when the provider was last asked."""

    name: str
    revision: str


def slug(provider: str, name: str, *choices: object) -> str:
    """The folder's name: readable, and by its digest different for another data set or another choice of what is read of it."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return f"{provider}-{readable}-{json_digest([provider, name, *choices])[:8]}"


def read_record(path: Path, kind: type[R]) -> R | None:
    """The record that a file holds; None when it is not there."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None


def pin(root: Root, slug: str, name: str, revision: str) -> None:
    """Keep what `name` stands for, so that who lists the items reads the revision that was announced, with or without a network."""
    root.write_record(_pin_path(root, slug, name), Pin(name=name, revision=revision))


def pinned(root: Root, slug: str, name: str) -> str | None:
    """The revision that `name` was last found to stand for, if it ever was."""
    kept = read_record(_pin_path(root, slug, name), Pin)
    return kept.revision if kept else None


def patiently(
    call: Callable[[], T], patience: Patience, *, where: str, faults: tuple[type[Exception], ...], whose: str = "the data set's provider"
) -> T:
    """What `call` returns, tried again as long as a passing fault or one of `faults` ends it; SourceUnreachable when patience is over."""
    retrying = Retrying(
        retry=retry_if_exception(lambda error: passes(error, faults)),
        wait=lambda state: _wait(state, patience),
        stop=stop_after_attempt(patience.tries),
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        if not passes(error, faults):
            raise
        raise SourceUnreachable(
            f"{whose} cannot be reached",
            where=where,
            expected="an answer",
            got=f"{type(error).__name__}: {error}".strip().splitlines()[0],
            next_step="look at the network and the provider's status, then run the build again: what was fetched is kept",
        ) from error


def passes(error: BaseException, faults: tuple[type[Exception], ...]) -> bool:
    """Whether the fault, or one that caused it, is one that another try may better."""
    if isinstance(error, IndexmillError):
        return False
    return any(isinstance(link, (ConnectionError, TimeoutError, *faults)) or status(link) in PASSING_STATUS for link in _chain(error))


def status(error: BaseException) -> int | None:
    """The HTTP status that an error of requests or httpx stands for."""
    return getattr(getattr(error, "response", None), "status_code", None)


def commit_of(told: str | None, where: str) -> str:
    """The commit that a hub names, which becomes a folder's name. Raises InputError for what is none."""
    if not re.fullmatch("[0-9a-f]{40}", str(told)):
        raise _misleading(where, "a commit, 40 digits", str(told))
    return str(told)


def check_names(files: Iterable[str], where: str) -> None:
    """Raise InputError where a hub names a file that would lie outside of its repository."""
    if outside := [name for name in files if not is_relative_inside(name)]:
        raise _misleading(where, "files with paths inside of the repository", outside[0])


def _misleading(where: str, expected: str, got: str) -> InputError:
    return InputError(
        "what the hub says could lead out of the folder for it", where=where, expected=expected, got=got, next_step="tell its authors"
    )


def nearest(name: str, there: Iterable[str]) -> str:
    """`a, b, c; nearest: b` for an error message."""
    names = sorted(there)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (", ".join(names) or "none") + (f"; nearest: {close[0]}" if close else "")


def _pin_path(root: Root, slug: str, name: str) -> Path:
    return root.source(slug, f"pin-{json_digest(name)[:8]}.json")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _wait(state: RetryCallState, patience: Patience) -> float:
    """Seconds until the next try: what the provider asks for, else an exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    for link in _chain(error):
        asked = str(getattr(getattr(link, "response", None), "headers", {}).get("retry-after", ""))
        if asked.isdigit():
            return min(float(asked), patience.longest_wait_s)
    return wait_exponential_jitter(multiplier=patience.wait_s, max=patience.longest_wait_s, jitter=patience.wait_s / 2)(state)
