"""How many examples hypothesis tries where each takes a while: all of them in `make test-all`, a quarter in the quick tests."""

from __future__ import annotations

is_quick = False  # conftest sets it before it imports any test


def count_examples(number: int) -> int:
    """Return how many of `number` examples to try."""
    return max(3, number // 4) if is_quick else number
