"""Rebuild embedding indexes every night, and publish them only when they are good enough.

The packages below are the folders of the repository: `flows`, `tasks`, `configs`, `storage` and `serve`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from indexmill.storage.errors import (
    BuildInProgress,
    DamagedFile,
    IndexmillError,
    InputError,
    PublishRefused,
    RootUnusable,
    SourceChanged,
    SourceUnreachable,
)

if TYPE_CHECKING:
    from indexmill.configs.loading import load_config
    from indexmill.serve.index import open_index

    __version__: str

__all__ = [
    "BuildInProgress",
    "DamagedFile",
    "IndexmillError",
    "InputError",
    "PublishRefused",
    "RootUnusable",
    "SourceChanged",
    "SourceUnreachable",
    "__version__",
    "load_config",
    "open_index",
]

# Imported on first use: FAISS and DuckDB take half a second, and `import indexmill` should not.
_LAZY = {"load_config": "indexmill.configs.loading", "open_index": "indexmill.serve.index"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("indexmill")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'indexmill' has no attribute {name!r}")
