"""Run the first stages without Prefect on a list of items, and read the tables that they write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from indexmill.configs.datasets import StdlibDatasetConfig
from indexmill.configs.models import SplitConfig, ValidateConfig
from indexmill.storage.records import Dataset, FileRef, Modality, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources import Item
from indexmill.tasks.sources.base import ScoredPair
from indexmill.tasks.split import split
from indexmill.tasks.validate import validate

OLD_MTIME_NS = 1_600_000_000_000_000_000  # old enough for ingest to rely on it


@dataclass
class ListSource:
    """A source with the given items; images if it has an image root."""

    item_list: Sequence[Item]
    image_root: Path | None = None
    labeled: bool = True
    pair_list: Sequence[ScoredPair] = ()

    @property
    def modality(self) -> Modality:
        return "image" if self.image_root else "text"

    def compute_revision(self) -> str:
        return "r"

    def items(self) -> Iterator[Item]:
        yield from self.item_list

    def pairs(self) -> Iterator[ScoredPair]:
        yield from self.pair_list


def run_ingest(root: Root, source: ListSource, name: str = "some", *, rehash: bool = False, **settings: Any) -> Dataset:
    """Run ingest. The settings are those that every data set has."""
    with patch("indexmill.tasks.ingest.open_source", lambda config, root, relist: source):
        return ingest.fn(root, name, StdlibDatasetConfig(source="stdlib", **settings), source.compute_revision(), rehash)


def run_validate(root: Root, source: ListSource, name: str = "some", **settings: Any) -> ValidatedDataset:
    """Run ingest and validate with the settings of `validate`. By default any number of rejects is allowed."""
    return validate.fn(root, run_ingest(root, source, name), ValidateConfig(**{"max_reject_fraction": 1, **settings}))


def run_split(root: Root, source: ListSource, **settings: Any) -> SplitDataset:
    """Run ingest, validate and split with the settings of `split`."""
    return split.fn(root, run_validate(root, source), SplitConfig(**settings))


def read_rows(root: Root, table: FileRef) -> list[dict[str, Any]]:
    """Return the rows of a table under the root."""
    return pq.read_table(root.file(table)).to_pylist()


def list_image_items(image_root: Path, **fields: Any) -> list[Item]:
    """Return every file below `image_root` as an image, labeled with its folder unless `fields` say otherwise."""
    items = []
    for path in sorted(path for path in image_root.rglob("*") if path.is_file()):
        relative_path, stat = path.relative_to(image_root).as_posix(), path.stat()
        values = {"label": path.parent.name, **fields}
        items.append(Item(relative_path, **values, path=relative_path, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return items


def make_image_source(image_root: Path) -> ListSource:
    """Return a source with the images that are below `image_root` now."""
    return ListSource(list_image_items(image_root), image_root=image_root)


def write_noise(path: Path, seed: int, side: int = 24) -> Path:
    """Write a bitmap of seeded noise with an old modification time. Bitmaps of the same side have the same size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)).save(path, "BMP")
    return set_mtime(path)


def set_mtime(path: Path, mtime_ns: int = OLD_MTIME_NS) -> Path:
    """Set the file's modification time."""
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path
