"""What a source is: something that lists items, and whose revision tells cheaply whether the list has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from storage.records import Modality


@dataclass(frozen=True)
class Item:
    """One item as its source lists it: `text` for texts, `path` (relative to the source's base) for images.

    key: its name in the data set, unique and stable from night to night.
    """

    key: str
    label: str | None = None
    text: str | None = None
    path: str | None = None


class Source(Protocol):
    """modality: what its items are. base: the folder that paths start from. labelled: whether items have labels."""

    modality: Modality
    base: Path | None
    labelled: bool

    def revision(self) -> str:
        """A digest that changes whenever the list or the content of an item may have changed; found without opening items."""
        ...

    def items(self) -> Iterator[Item]:
        """All items, in any order."""
        ...
