"""Open what a flow works on: the pipeline's config and the root."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig
from indexmill.flows.environment import DEFAULT_ROOT, ROOT_VARIABLE
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.permissions import apply_umask
from indexmill.storage.query_database import sharing_databases
from indexmill.storage.root import Root


@contextmanager
def open_root(root: str | Path | None) -> Iterator[Root]:
    """Open the root of a flow, and create it if needed; close it at the end of the block.

    Files that this process and its children create from now on are accessible to their user only
    (`indexmill.storage.permissions`).

    Args:
        root: The directory; None means INDEXMILL_ROOT, or ./indexmill-data where that is not set.
    """
    apply_umask()
    storage_root = Root(root or os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT))
    try:
        with sharing_databases():
            yield storage_root
    finally:
        storage_root.close()


@contextmanager
def open_pipeline(config: str, root: str | None, settings: Iterable[str] | None) -> Iterator[tuple[PipelineConfig, Root]]:
    """Load a pipeline's config and open its root; report disk failures in the block as Indexmill's own errors."""
    pipeline = load_config(config, settings or ())
    with open_root(root) as storage_root, translate_disk_errors(storage_root.path):
        yield pipeline, storage_root
