"""Where items come from: one file a source."""

from __future__ import annotations

from indexmill.configs.datasets import (
    DatasetConfig,
    FolderDataset,
    HuggingFaceDataset,
    KaggleDataset,
    StdlibDataset,
    StsDataset,
    TableDataset,
    TinyImagenetDataset,
)
from indexmill.storage.root import Root
from indexmill.tasks.sources.folder import FolderSource
from indexmill.tasks.sources.listing import Item, Source
from indexmill.tasks.sources.stdlib import StdlibSource
from indexmill.tasks.sources.sts import StsSource
from indexmill.tasks.sources.table import TableSource
from indexmill.tasks.sources.tiny_imagenet import TinyImagenetSource

__all__ = ["Item", "Source", "open_source"]


def open_source(config: DatasetConfig, root: Root) -> Source:
    """The source that a config names. Raises InputError when it is not there."""
    match config:
        case StdlibDataset():
            return StdlibSource()
        case FolderDataset():
            return FolderSource(config.path.replace("{root}", str(root.path)), config)
        case TinyImagenetDataset():
            return TinyImagenetSource(config)
        case StsDataset():
            return StsSource(config)
        case TableDataset():
            return TableSource(config, root)
        case HuggingFaceDataset():
            from indexmill.tasks.sources.huggingface import (
                HuggingFaceSource,  # here: its libraries take a second that only its users have to pay
            )

            return HuggingFaceSource(config, root)
        case KaggleDataset():
            from indexmill.tasks.sources.kaggle import KaggleSource  # here: for the same reason

            return KaggleSource(config, root)
