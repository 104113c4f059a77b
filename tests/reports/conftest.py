"""A browser for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.reports.browser import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with Browser(chromium, tmp_path_factory.mktemp("browser") / "profile") as chromium_browser:
        yield chromium_browser
