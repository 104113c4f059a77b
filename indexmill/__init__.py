"""Rebuild embedding indexes every night, and publish them only when they are good enough.

The public API is what `__all__` lists:

    build        build the index of a pipeline, and publish it if it passes the gate
    load_config  read a pipeline's config
    open_index   open a published index to search it
    __version__  the version of Indexmill
    IndexmillError and its subclasses: everything that is raised on purpose

The packages below are the folders of the repository: `flows`, `tasks`, `configs`, `storage` and `serve`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from indexmill.storage.errors import (
    BuildInProgress,
    DamagedFile,
    ExportFailed,
    IndexmillError,
    InputError,
    PublishRefused,
    RootUnusable,
    SourceChanged,
    SourceUnreachable,
)
from indexmill.storage.processor import choose_blas_kernels

if TYPE_CHECKING:
    from indexmill.configs.loading import load_config
    from indexmill.flows.local_runs import build
    from indexmill.serve.index import open_index

    __version__: str

__all__ = [
    "BuildInProgress",
    "DamagedFile",
    "ExportFailed",
    "IndexmillError",
    "InputError",
    "PublishRefused",
    "RootUnusable",
    "SourceChanged",
    "SourceUnreachable",
    "__version__",
    "build",
    "load_config",
    "open_index",
]

choose_blas_kernels()
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime reports names of models, and writes to the home directory

# Imported on first use, so that `import indexmill` does not load FAISS, DuckDB and Prefect.
_LAZY = {"build": "indexmill.flows.local_runs", "load_config": "indexmill.configs.loading", "open_index": "indexmill.serve.index"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("indexmill")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'indexmill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
