"""Fixtures of the source tests: small images, and real data if available."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def write_image() -> Callable[[Path], Path]:
    """Return a function that writes a 4 x 4 image and its parent folders."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path, "PNG")
        return path

    return write


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A temporary folder that any user may read, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not (folder := os.environ.get("INDEXMILL_REAL_DATA")):
        pytest.skip("INDEXMILL_REAL_DATA is not set")
    return Path(folder)
