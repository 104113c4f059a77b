"""Data sources: one module per kind of source."""

from __future__ import annotations

from indexmill.configs.datasets import (
    BeirDatasetConfig,
    DatasetConfig,
    FolderDatasetConfig,
    HuggingFaceDatasetConfig,
    KaggleDatasetConfig,
    PythonDatasetConfig,
    SqlDatasetConfig,
    StdlibDatasetConfig,
    StsDatasetConfig,
    TableDatasetConfig,
    TinyImagenetDatasetConfig,
    WebDatasetConfig,
)
from indexmill.storage.root import Root
from indexmill.storage.urls import is_url
from indexmill.tasks.sources.base import Item, Source
from indexmill.tasks.sources.beir import BeirSource
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.sources.python_source import PythonDataSource
from indexmill.tasks.sources.remote_folder import RemoteFolderSource
from indexmill.tasks.sources.stdlib import StdlibSource
from indexmill.tasks.sources.sts import StsSource
from indexmill.tasks.sources.table import TableSource
from indexmill.tasks.sources.tiny_imagenet import TinyImagenetSource
from indexmill.tasks.sources.webdataset import WebDatasetSource

__all__ = ["Item", "Source", "open_source"]


def open_source(config: DatasetConfig, root: Root, *, relist: bool = False) -> Source:
    """Open the source that a config describes. Raises InputError if it does not exist.

    Args:
        config: The section `dataset`.
        root: The storage root.
        relist: Read files again that sources keep listings of: tar shards, tables with images.
    """
    match config:
        case StdlibDatasetConfig():
            return StdlibSource()
        case FolderDatasetConfig():
            return _open_folder(config, root)
        case TinyImagenetDatasetConfig():
            return TinyImagenetSource(config)
        case StsDatasetConfig():
            return StsSource(config)
        case BeirDatasetConfig():
            return BeirSource(config, root)
        case TableDatasetConfig():
            return TableSource(config, root, relist=relist)
        case WebDatasetConfig():
            return WebDatasetSource(config, root, relist=relist)
        case PythonDatasetConfig():
            return PythonDataSource(config)
        case SqlDatasetConfig() | HuggingFaceDatasetConfig() | KaggleDatasetConfig():
            return _open_with_client(config, root)


def _open_folder(config: FolderDatasetConfig, root: Root) -> Source:
    if is_url(config.path):
        return RemoteFolderSource(config, root)
    return FolderSource(config.path.replace("{root}", str(root.path)), config)


def _open_with_client(config: SqlDatasetConfig | HuggingFaceDatasetConfig | KaggleDatasetConfig, root: Root) -> Source:
    """Open a source whose client is slow to import, so that only its users pay for it."""
    match config:
        case SqlDatasetConfig():
            from indexmill.tasks.sources.sql import SqlSource

            return SqlSource(config, root)
        case HuggingFaceDatasetConfig():
            from indexmill.tasks.sources.huggingface import HuggingFaceSource

            return HuggingFaceSource(config, root)
        case KaggleDatasetConfig():
            from indexmill.tasks.sources.kaggle import KaggleSource

            return KaggleSource(config, root)
