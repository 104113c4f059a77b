"""Images for the tests of several stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stage_inputs import write_noise


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """A folder of six images with two labels."""
    for number in range(6):
        write_noise(tmp_path / "images" / f"l{number % 2}" / f"{number}.bmp", number)
    return tmp_path / "images"
