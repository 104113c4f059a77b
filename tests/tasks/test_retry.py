"""Retries: transient errors are retried with backoff, all others are raised at once."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import requests

from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.tasks.retry import RetryPolicy, with_retries

FAST_RETRY = RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.05)


def make_http_error(status: int, **headers: str) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return requests.HTTPError("no", response=response)


class FailingCall:
    """Raises each error in turn, then returns the number of calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_transient_errors_are_retried_and_others_are_not() -> None:
    """A busy server and a broken connection are retried; a refusal and our own errors are raised at once."""
    assert with_retries(FailingCall(make_http_error(503), ConnectionResetError()), FAST_RETRY, where="x", transient_errors=()) == 3
    for permanent in (make_http_error(404), InputError("no"), ValueError("no")):
        failing = FailingCall(permanent)
        with pytest.raises(type(permanent)):
            with_retries(failing, FAST_RETRY, where="x", transient_errors=())
        assert failing.calls == 1


def test_the_last_transient_error_becomes_source_unreachable() -> None:
    """After the last attempt the error says where it happened and what the cause was."""
    failing = FailingCall(*[make_http_error(429)] * 9)
    with pytest.raises(SourceUnreachable, match="HTTPError: no") as raised:
        with_retries(failing, FAST_RETRY, where="dataset.id = x", transient_errors=())
    assert (failing.calls, raised.value.where) == (3, "dataset.id = x")


def test_retry_after_is_honored_up_to_the_longest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider's wish counts instead of the backoff, within bounds."""
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    failing = FailingCall(make_http_error(429, **{"Retry-After": "3600"}), make_http_error(503, **{"Retry-After": "2"}))
    with_retries(failing, RetryPolicy(first_wait_s=0, max_wait_s=7), where="x", transient_errors=())
    assert waits == [7, 2]


def test_waits_double_up_to_the_longest_wait() -> None:
    """There is one wait fewer than attempts."""
    assert RetryPolicy(attempts=5, first_wait_s=2, max_wait_s=10).waits_s == (2, 4, 8, 10)


def test_source_unreachable_survives_pickling() -> None:
    """Errors cross process boundaries with all their parts."""
    error = SourceUnreachable("no", where="a", expected="b", got="c", next_step="d")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (SourceUnreachable, str(error))
