"""What all fault tests compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.killing import SETTINGS


@pytest.fixture(scope="session")
def undisturbed(server: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a build gives that nobody disturbs."""
    from indexmill.flows.build_index import build_index

    return build_index("demo-images", str(tmp_path_factory.mktemp("undisturbed")), [f"dataset.path={digits}", *SETTINGS])
