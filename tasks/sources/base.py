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

    Attributes:
        key: The item's name in the data set, unique and stable across builds.
        label: Its class, if it has one.
        text: The text, or an image's caption.
        path: An image's file, relative to the source's image root, or what is inside one (`storage.contents`).
        size: The image's size in bytes.
        mtime_ns: Its file's modification time in nanoseconds.
        split: The split that the data set assigns it to, if any.
        fault: Why the source could not read it; validation rejects it as `malformed_row`.
        content_digest: The digest of its content, if the source has read it.
        url: Where an image is if it has to be downloaded; `path` is its copy's.
        version: The version of that image, on which its copy's path depends; None where no listing shows it.
    """

    key: str
    label: str | None = None
    text: str | None = None
    path: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    split: str | None = None
    fault: str | None = None
    content_digest: str | None = None
    url: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class ScoredPair:
    """Two texts and the similarity score that people gave them.

    Attributes:
        key_a: The key of the first item.
        key_b: The key of the second item, of the same source.
        score: The score on the corpus's own scale.
        file: The name of the file that the pair comes from.
        split: The split that the data set assigns the pair to, if any.
    """

    key_a: str
    key_b: str
    score: float
    file: str
    split: str | None = None


class Source(Protocol):
    """A data set as the stages see it."""

    modality: Modality

    @property
    def image_root(self) -> str | Path | None:
        """The folder or URL that image paths are relative to; None for texts."""
        ...

    @property
    def labeled(self) -> bool:
        """Whether items have labels."""
        ...

    def compute_revision(self) -> str:
        """Return a digest that changes whenever an item may have changed, without opening items."""
        ...

    def items(self) -> Iterator[Item]:
        """Yield all items, in any order."""
        ...

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield the scored pairs of items, if the data set has any."""
        ...
