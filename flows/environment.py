"""Prefect's settings for a build that brings its own server: everything under the root, nothing sent anywhere, quiet.

They are read when Prefect is first imported, so this module imports nothing of it. A variable that is already set is left alone:
a worker, or a user with a server of their own, has the last word.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexmill.storage.root import Root

ROOT_VARIABLE = "INDEXMILL_ROOT"
DEFAULT_ROOT = "./indexmill-data"


def default_root() -> str:
    """The root that is used when none is named."""
    return os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)


def open_root(root: str | None) -> Root:
    """The root of a flow. What the process and its children make from now on is their user's alone (`indexmill.storage.permissions`)."""
    from indexmill.storage.permissions import apply_umask
    from indexmill.storage.root import Root

    apply_umask()
    return Root(root or default_root())


def prepare_environment(root: Path, *, verbose: bool = False) -> None:
    """Set what Prefect and the model libraries should find. Call before importing either."""
    settings = {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_LEVEL": "INFO" if verbose else "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HOME": str(root / "models"),
        "HF_HUB_DISABLE_TELEMETRY": "1",  # with it, the hub's client also leaves the home directory alone
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLCONFIGDIR": str(root / "tmp" / "matplotlib"),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait by spinning made searches 4 times slower where other work ran beside them
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
