"""The first stages without Prefect, on a listing held in memory, and the tables that they write."""

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

LONG_AGO = 1_600_000_000_000_000_000  # a modification time that is believed


@dataclass
class Listed:
    """A source whose items are given; images when it has a base."""

    listed: Sequence[Item]
    image_root: Path | None = None
    labeled: bool = True
    scored: Sequence[ScoredPair] = ()

    @property
    def modality(self) -> Modality:
        return "image" if self.image_root else "text"

    def compute_revision(self) -> str:
        return "r"

    def items(self) -> Iterator[Item]:
        yield from self.listed

    def pairs(self) -> Iterator[ScoredPair]:
        yield from self.scored


def ingested(root: Root, source: Listed, name: str = "some", *, rehash: bool = False, **settings: Any) -> Dataset:
    """What ingest makes of the source; settings are those that every data set has."""
    with patch("indexmill.tasks.ingest.open_source", lambda config, root: source):
        return ingest.fn(root, name, StdlibDatasetConfig(source="stdlib", **settings), source.compute_revision(), rehash)


def validated(root: Root, source: Listed, name: str = "some", **settings: Any) -> ValidatedDataset:
    """Ingest and validate; by default as many rejects as there may be. settings: the section `validate`."""
    return validate.fn(root, ingested(root, source, name), ValidateConfig(**{"max_reject_fraction": 1, **settings}))


def divided(root: Root, source: Listed, **settings: Any) -> SplitDataset:
    """Ingest, validate and split. settings: the section `split`."""
    return split.fn(root, validated(root, source), SplitConfig(**settings))


def rows(root: Root, table: FileRef) -> list[dict[str, Any]]:
    """The rows of a table under the root."""
    return pq.read_table(root.file(table)).to_pylist()


def image_items(image_root: Path, **fields: Any) -> list[Item]:
    """Every file below `image_root` as an image, labelled with its folder (or with `fields`)."""
    found = []
    for path in sorted(path for path in image_root.rglob("*") if path.is_file()):
        name, stat = path.relative_to(image_root).as_posix(), path.stat()
        found.append(Item(name, **{"label": path.parent.name, **fields}, path=name, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return found


def pictures(image_root: Path) -> Listed:
    """The images below `image_root` as they are now."""
    return Listed(image_items(image_root), image_root=image_root)


def paint(path: Path, seed: int, side: int = 24) -> Path:
    """A bitmap of seeded noise, as many bytes as any other of its side, written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)).save(path, "BMP")
    return aged(path)


def aged(path: Path, mtime_ns: int = LONG_AGO) -> Path:
    """The file with that modification time."""
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path
