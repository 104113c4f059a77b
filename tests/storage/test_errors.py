"""Errors have the parts what, where, expected, got and next step."""

from __future__ import annotations

import pickle

from indexmill.storage.errors import IndexmillError, InputError, PublishRefused


def test_an_error_prints_one_line_per_part_and_omits_empty_parts() -> None:
    """The first line says what is wrong."""
    error = InputError("it is wrong", where="here", got="this", next_step="fix it")
    assert str(error) == "it is wrong\n  where:    here\n  got:      this\n  next:     fix it"


def test_errors_survive_pickling() -> None:
    """An error of a worker process keeps all its parts."""
    error = pickle.loads(pickle.dumps(PublishRefused("no", where="w", expected="e", got="g", next_step="n")))
    assert isinstance(error, PublishRefused)
    assert str(error) == str(PublishRefused("no", where="w", expected="e", got="g", next_step="n"))


def test_a_refused_build_has_its_own_exit_code() -> None:
    """Scripts can distinguish an invalid config (2) from a refused build (3)."""
    assert (IndexmillError.exit_code, InputError.exit_code, PublishRefused.exit_code) == (2, 2, 3)
