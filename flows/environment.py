"""Prefect's settings for a build with an embedded server: all files under the root, no telemetry, no log output.

Prefect reads its settings when it is first imported, so this module must not import Prefect. Variables that are
already set stay as they are, so that a worker, or a user with their own server, can override every setting.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT_VARIABLE = "INDEXMILL_ROOT"
DEFAULT_ROOT = "./indexmill-data"


def prepare_environment(root: Path, *, verbose: bool = False) -> None:
    """Set the environment variables of Prefect and the model libraries. Call this before importing any of them."""
    settings = {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_LEVEL": "INFO" if verbose else "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HOME": str(root / "models"),
        "HF_HUB_DISABLE_TELEMETRY": "1",  # also keeps the hub's client from writing to the home directory
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLCONFIGDIR": str(root / "tmp" / "matplotlib"),
        "OMP_WAIT_POLICY": "PASSIVE",  # busy-waiting threads make searches 4 times slower on a busy machine
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
