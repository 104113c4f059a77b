"""Where items come from: one file a source."""

from __future__ import annotations

from configs.models import DatasetConfig, FolderDataset, StdlibDataset
from storage.root import Root
from tasks.sources.folder import FolderSource
from tasks.sources.listing import Item, Source
from tasks.sources.stdlib import StdlibSource

__all__ = ["Item", "Source", "open_source"]


def open_source(config: DatasetConfig, root: Root) -> Source:
    """The source that a config names. Raises InputError when it is not there."""
    match config:
        case StdlibDataset():
            return StdlibSource()
        case FolderDataset():
            return FolderSource(config.path.replace("{root}", str(root.path)), config)
        case _:
            raise NotImplementedError(config.source)
