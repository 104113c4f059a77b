"""What all fault tests compare with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import FinishedBuild


@pytest.fixture(scope="session")
def undisturbed(finished_build: FinishedBuild) -> dict[str, Any]:
    """The summary of a build of the digits that nothing disturbed."""
    return finished_build.summary
