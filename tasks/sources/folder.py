"""A tree of images: key = path below the folder; labels from the folders or from metadata, captions from metadata or from .txt files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from indexmill.configs.datasets import ImageFolderConfig
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.sources.images import FoundFile, image_item, is_image, walk
from indexmill.tasks.sources.listing import Item, Pair
from indexmill.tasks.sources.metadata import NAMES, MetadataRow, joined, metadata_rows

CAPTION_SUFFIX = ".txt"


class FolderSource:
    """Images below `folder`, as `walk` finds them and `config` reads them.

    What cannot be used is listed and left to validation to reject: an image that has no label to take (it lies too high, or no metadata
    row names it); a metadata row whose image was not found, as an item without a path; a caption file that is not UTF-8, as an empty
    text. An image that two metadata rows name is listed twice, which ingest refuses.
    """

    modality: Modality = "image"
    image_root: Path | None

    def __init__(self, folder: str | Path, config: ImageFolderConfig) -> None:
        self._folder = self.image_root = Path(folder).expanduser().resolve()
        self._config = config
        self.labelled = config.labels != "none"
        self._metadata = "metadata" in (config.labels, config.captions)
        if not self._folder.is_dir():
            raise InputError(
                "the image folder is not there",
                where=f"dataset.path = {folder}",
                expected="a folder with one sub-folder of images a label" if config.labels == "folder" else "a folder of images",
                got="a file" if self._folder.exists() else f"nothing at {self._folder}",
                next_step="indexmill demo writes it"
                if str(folder).endswith("sources/digits/1")
                else "mend dataset.path, or create the folder",
            )

    def revision(self) -> str:
        """Digest of the path, size and modification time of every image, and of the metadata and caption files that are read."""
        return rows_digest((file.path, file.size, file.mtime_ns) for file in walk(self._folder, self._is_read))

    def items(self) -> Iterator[Item]:
        """Images in path order."""
        images = walk(self._folder, is_image)
        if not self._metadata:
            yield from (self._item(image.path, image, None) for image in images)
            return
        with TemporaryDirectory(prefix="indexmill-") as spill:
            for image, row in joined(images, metadata_rows(self._folder, self._config, Path(spill))):
                yield self._item(image.path if image else row.path if row else "", image, row)

    def pairs(self) -> Iterator[Pair]:
        """None: a folder scores nothing."""
        return iter(())

    def _item(self, path: str, image: FoundFile | None, row: MetadataRow | None) -> Item:
        label = self._label(path, row)
        if image is None:
            return Item(key=path, label=label, text=row.caption if row else None)
        return image_item(image, label=label, text=self._caption(path, row))

    def _label(self, path: str, row: MetadataRow | None) -> str | None:
        match self._config.labels:
            case "folder":
                parts, depth = path.split("/"), self._config.label_depth
                return parts[depth - 1] if len(parts) > depth else None
            case "metadata":
                return row.label if row else None
            case "none":
                return None

    def _caption(self, path: str, row: MetadataRow | None) -> str | None:
        match self._config.captions:
            case "metadata":
                return row.caption if row else None
            case "text":
                return _content((self._folder / path).with_suffix(CAPTION_SUFFIX))
            case "none":
                return None

    def _is_read(self, name: str) -> bool:
        captions = self._config.captions == "text" and name.endswith(CAPTION_SUFFIX)
        return is_image(name) or captions or (self._metadata and name in NAMES)


def _content(caption: Path) -> str | None:
    """The text of a caption file, without a byte-order mark; None where there is no such file, empty where it is not UTF-8."""
    if not caption.is_file():
        return None
    try:
        return caption.read_text("utf-8-sig")
    except (UnicodeDecodeError, OSError):
        return ""
