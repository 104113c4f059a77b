"""A tree of images: key = path below the folder, label = the first folder on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from configs.models import ImageFolder
from storage.digests import rows_digest
from storage.errors import InputError
from storage.records import Modality
from tasks.sources.listing import Item, Pair

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class FolderSource:
    """Images below `path`. With labels, an image right below `path` has none to take and is left to validation to reject."""

    modality: Modality = "image"
    base: Path | None

    def __init__(self, folder: str | Path, config: ImageFolder) -> None:
        path = str(folder)
        self._folder = self.base = Path(folder).expanduser().resolve()
        self.labelled = config.labels == "folder"
        if not self._folder.is_dir():
            raise InputError(
                "the image folder is not there",
                where=f"dataset.path = {path}",
                expected="a folder with one sub-folder of images a label",
                got="a file" if self._folder.exists() else f"nothing at {self._folder}",
                next_step="indexmill demo writes it" if path.endswith("sources/digits/1") else "mend dataset.path, or create the folder",
            )

    def revision(self) -> str:
        """Digest of every image's path, size and modification time."""
        return rows_digest((path, stat.st_size, stat.st_mtime_ns) for path, stat in self._walk(self._folder))

    def items(self) -> Iterator[Item]:
        """Images in path order."""
        for path, stat in self._walk(self._folder):
            label = path.split("/", 1)[0] if self.labelled and "/" in path else None
            yield Item(key=path, label=label, path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns)

    def pairs(self) -> Iterator[Pair]:
        """None: a folder scores nothing."""
        return iter(())

    def _walk(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        """(path below base, stat) of every image; hidden names and links to folders are passed over."""
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(Path(entry.path))
                elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
                    yield Path(entry.path).relative_to(self._folder).as_posix(), entry.stat()
