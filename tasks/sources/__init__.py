"""Data sources: one module per kind of source."""

from __future__ import annotations

from indexmill.configs.datasets import (
    BeirDatasetConfig,
    DatasetConfig,
    FolderDatasetConfig,
    HuggingFaceDatasetConfig,
    KaggleDatasetConfig,
    PythonDatasetConfig,
    StdlibDatasetConfig,
    StsDatasetConfig,
    TableDatasetConfig,
    TinyImagenetDatasetConfig,
)
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item, Source
from indexmill.tasks.sources.beir import BeirSource
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.sources.python_source import PythonDataSource
from indexmill.tasks.sources.stdlib import StdlibSource
from indexmill.tasks.sources.sts import StsSource
from indexmill.tasks.sources.table import TableSource
from indexmill.tasks.sources.tiny_imagenet import TinyImagenetSource

__all__ = ["Item", "Source", "open_source"]


def open_source(config: DatasetConfig, root: Root) -> Source:
    """Open the source that a config describes. Raises InputError if it does not exist."""
    match config:
        case StdlibDatasetConfig():
            return StdlibSource()
        case FolderDatasetConfig():
            return FolderSource(config.path.replace("{root}", str(root.path)), config)
        case TinyImagenetDatasetConfig():
            return TinyImagenetSource(config)
        case StsDatasetConfig():
            return StsSource(config)
        case BeirDatasetConfig():
            return BeirSource(config, root)
        case TableDatasetConfig():
            return TableSource(config)
        case PythonDatasetConfig():
            return PythonDataSource(config)
        case HuggingFaceDatasetConfig():
            from indexmill.tasks.sources.huggingface import HuggingFaceSource  # slow to import: only its users pay for it

            return HuggingFaceSource(config, root)
        case KaggleDatasetConfig():
            from indexmill.tasks.sources.kaggle import KaggleSource  # slow to import, too

            return KaggleSource(config, root)
