"""Fixtures of the evaluation's tests."""

from __future__ import annotations

import pytest

from indexmill.storage.root import Root
from tests.evaluation.small_index import SmallIndex


@pytest.fixture
def small(root: Root) -> SmallIndex:
    return SmallIndex(root)
