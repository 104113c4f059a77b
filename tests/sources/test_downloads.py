from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import requests

from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.root import Root
from indexmill.tasks.retry import RetryPolicy, make_slug, read_pin, with_retries, write_pin

QUICK = RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.05)


def answered(status: int, **headers: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return requests.HTTPError("no", response=response)


class Failing:
    """Fails with each error in turn, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_a_slug_is_readable_and_different_for_another_choice() -> None:
    """The same data set and choice give the same folder; names that look alike and other choices give others."""
    assert make_slug("kaggle", "a/b").startswith("kaggle-a-b-")
    assert make_slug("kaggle", "a/b") == make_slug("kaggle", "a/b")
    assert len({make_slug("kaggle", "a/b"), make_slug("kaggle", "a-b"), make_slug("hub", "a/b"), make_slug("hub", "a/b", ["train"])}) == 4


def test_a_pin_is_what_was_last_found(tmp_path: Path) -> None:
    """Pins are kept by name under the root."""
    root = Root(tmp_path)
    assert read_pin(root, "ours", "main") is None
    write_pin(root, "ours", "main", "1")
    write_pin(root, "ours", "main", "2")
    write_pin(root, "ours", "refs/pr/1", "3")
    assert (read_pin(root, "ours", "main"), read_pin(root, "ours", "refs/pr/1")) == ("2", "3")
    root.close()


def test_passing_faults_are_tried_again_and_lasting_ones_are_not() -> None:
    """A busy server and a broken connection are asked again; a refusal and an error of our own are raised at once."""
    assert with_retries(Failing(answered(503), ConnectionResetError()), QUICK, where="x", transient_errors=()) == 3
    for lasting in (answered(404), InputError("no"), ValueError("no")):
        failing = Failing(lasting)
        with pytest.raises(type(lasting)):
            with_retries(failing, QUICK, where="x", transient_errors=())
        assert failing.calls == 1


def test_patience_ends_in_source_unreachable() -> None:
    """After the last try the error says where, and what the fault was."""
    failing = Failing(*[answered(429)] * 9)
    with pytest.raises(SourceUnreachable, match="HTTPError: no") as told:
        with_retries(failing, QUICK, where="dataset.id = x", transient_errors=())
    assert (failing.calls, told.value.where) == (3, "dataset.id = x")


def test_what_a_provider_asks_for_is_waited_up_to_the_longest_wait() -> None:
    """Retry-After is heeded within bounds."""
    started = time.monotonic()
    with_retries(
        Failing(answered(429, **{"Retry-After": "3600"})), RetryPolicy(first_wait_s=0, max_wait_s=0.3), where="x", transient_errors=()
    )
    assert 0.3 <= time.monotonic() - started < 2


def test_source_unreachable_crosses_processes_whole() -> None:
    """Pickled and back, it is the same error with all its parts."""
    error = SourceUnreachable("no", where="a", expected="b", got="c", next_step="d")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (SourceUnreachable, str(error))
