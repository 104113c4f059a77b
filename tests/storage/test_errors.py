"""Errors that say what, where, expected, got, next step."""

from __future__ import annotations

import pickle

from indexmill.storage.errors import IndexmillError, InputError, PublishRefused


def test_an_error_says_each_part_on_its_line_and_leaves_out_what_it_does_not_know() -> None:
    """A person reads it top to bottom."""
    problem = InputError("it is wrong", where="here", got="this", next_step="mend it")
    assert str(problem) == "it is wrong\n  where:    here\n  got:      this\n  next:     mend it"


def test_errors_cross_process_boundaries_whole() -> None:
    """A worker's error is as helpful as one's own."""
    problem = pickle.loads(pickle.dumps(PublishRefused("no", where="w", expected="e", got="g", next_step="n")))
    assert isinstance(problem, PublishRefused)
    assert str(problem) == str(PublishRefused("no", where="w", expected="e", got="g", next_step="n"))


def test_a_refusal_has_an_exit_code_of_its_own() -> None:
    """Scripts tell a bad config (2) from a bad index (3)."""
    assert (IndexmillError.exit_code, InputError.exit_code, PublishRefused.exit_code) == (2, 2, 3)
