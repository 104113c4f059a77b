"""Captions in text files beside images, and the count of those that belong to no image."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

CAPTION_SUFFIX = ".txt"


def get_caption_path(image: str) -> str:
    """Return the path of the caption of an image."""
    return str(PurePosixPath(image).with_suffix(CAPTION_SUFFIX))


def read_caption(caption: Path) -> str | None:
    """Return the text without a byte-order mark; None if there is no such file, empty if it is not UTF-8."""
    if not os.path.isfile(caption):  # noqa: PTH113 (pathlib's raises for a name that is too long)
        return None
    try:
        return caption.read_text("utf-8-sig")
    except (UnicodeDecodeError, OSError):
        return ""


@dataclass
class _Folder:
    prefix: str
    captions: set[str] = field(default_factory=set)
    expected: set[str] = field(default_factory=set)


class UnusedCaptions:
    """Counts the caption files without an image, while files come in the order of `walk_entries`.

    Memory holds the names of one folder and of the folders above it, as the walk does.
    """

    def __init__(self) -> None:
        self._folders: list[_Folder] = []
        self._count = 0

    def add_caption(self, path: str) -> None:
        """Note a caption file."""
        self._enter(path).captions.add(path)

    def add_image(self, path: str) -> None:
        """Note an image."""
        self._enter(path).expected.add(get_caption_path(path))

    def count(self) -> int:
        """Return how many captions belong to no image, after the last file."""
        while self._folders:
            self._leave()
        return self._count

    def _enter(self, path: str) -> _Folder:
        prefix = path[: path.rfind("/") + 1]
        while self._folders and not prefix.startswith(self._folders[-1].prefix):
            self._leave()
        if not self._folders or self._folders[-1].prefix != prefix:
            self._folders.append(_Folder(prefix))
        return self._folders[-1]

    def _leave(self) -> None:
        folder = self._folders.pop()
        self._count += len(folder.captions - folder.expected)
