"""Helpers for tests of image folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexmill.configs.datasets import FolderDatasetConfig
from indexmill.tasks.sources.folder import FolderSource

WriteImage = Callable[[Path], Path]


def make_source(folder: Path, **settings: Any) -> FolderSource:
    return FolderSource(folder, FolderDatasetConfig(source="folder", path=str(folder), **settings))


def list_labels(folder: Path, **settings: Any) -> dict[str, str | None]:
    return {item.key: item.label for item in make_source(folder, **settings).items()}


def list_captions(folder: Path, **settings: Any) -> dict[str, str | None]:
    return {item.key: item.text for item in make_source(folder, **settings).items()}
