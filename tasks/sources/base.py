"""The interface of a data source: it lists items, and its revision shows cheaply whether the list has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from indexmill.storage.records import Modality


@dataclass(frozen=True)
class Item:
    """One item as its source lists it.

    key: its name in the data set, unique and stable from night to night. text: the text, or an image's caption. path: an image's file,
    relative to the source's base, with its size in bytes and modification time in nanoseconds, which tell whether it has changed.
    split: the data set's own split that it stands in, where there is one.
    """

    key: str
    label: str | None = None
    text: str | None = None
    path: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    split: str | None = None


@dataclass(frozen=True)
class ScoredPair:
    """Two texts and how alike people found them. key_a and key_b name items of the same source; file says where the pair stands."""

    key_a: str
    key_b: str
    score: float
    file: str
    split: str | None = None


class Source(Protocol):
    """What the stages ask of a data set."""

    modality: Modality

    @property
    def image_root(self) -> Path | None:
        """The folder that paths start from; None for texts."""
        ...

    @property
    def labeled(self) -> bool:
        """Whether items have labels."""
        ...

    def compute_revision(self) -> str:
        """A digest that changes whenever the list or the content of an item may have changed; found without opening items."""
        ...

    def items(self) -> Iterator[Item]:
        """All items, in any order."""
        ...

    def pairs(self) -> Iterator[ScoredPair]:
        """Scored pairs of items, where the data set has them; else none."""
        ...
