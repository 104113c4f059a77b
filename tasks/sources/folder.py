"""A folder of images, with labels from folder names and labels or captions from files.

The item key is the path below the folder. Labels come from folders or metadata files, captions from metadata or
.txt files. Metadata files follow Hugging Face's ImageFolder. Images and metadata rows are merged in path order, so
neither list is held in memory.
"""

from __future__ import annotations

import heapq
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import cast

import pyarrow as pa

from indexmill.configs.datasets import ImageFolderConfig
from indexmill.storage import parquet
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.captions import CAPTION_SUFFIX, UnusedCaptions, get_caption_path, read_caption
from indexmill.tasks.sources.image_files import FileEntry, is_image_file, make_image_item, walk_entries, walk_files
from indexmill.tasks.sources.table_reader import TableFormat, read_rows, require_columns

METADATA_FILE_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
METADATA_SCHEMA = pa.schema({name: pa.string() for name in ("path", "label", "caption", "fault")})


@dataclass(frozen=True)
class MetadataRow:
    """The label and caption that a metadata file gives the image at `path`, a path relative to the image root.

    A row that cannot be read has a fault; its path is that of the metadata file with the line.
    """

    path: str
    label: str | None
    caption: str | None
    fault: str | None = None


def read_metadata_rows(image_root: Path, config: ImageFolderConfig, temp_dir: Path) -> Iterator[MetadataRow]:
    """Yield the rows of all metadata files below `image_root`, in path order.

    A row without a file name gets the path of its metadata file with its line. Raises InputError for an unusable file.
    """
    label = config.label_column if config.labels == "metadata" else None
    caption = config.caption_column if config.captions == "metadata" else None
    forget_listings()
    files = _find_metadata_files(image_root)
    columns = {"dataset.label_column": label, "dataset.caption_column": caption, "the ImageFolder format": "file_name"}
    required = {setting: column for setting, column in columns.items() if column}
    for file in files:
        require_columns(image_root / file, _get_table_format(file), required)
    listing = temp_dir / "metadata.parquet"
    parquet.write_parquet(listing, METADATA_SCHEMA, _read_batches(image_root, files, ("file_name", label, caption)))
    sql = f"SELECT path, label, caption, fault FROM {parquet.scan_sql(listing)} ORDER BY string_split(path, '/')"
    with parquet.query(sql, temp_dir=temp_dir) as batches:
        for batch in batches:
            yield from (MetadataRow(**row) for row in batch.to_pylist())


def join_metadata(images: Iterable[FileEntry], rows: Iterable[MetadataRow]) -> Iterator[tuple[FileEntry | None, MetadataRow | None]]:
    """Join images and metadata rows by path; both must come in path order.

    Yields:
        Every image with its row or None, and rows without an image with None. An image that two rows name comes twice.
    """
    inputs: tuple[Iterable[FileEntry | MetadataRow], ...] = (images, rows)
    stream = heapq.merge(*inputs, key=lambda entry: entry.path.split("/"))
    for _, group in itertools.groupby(stream, key=lambda entry: entry.path):
        entries = list(group)
        image = next((entry for entry in entries if isinstance(entry, FileEntry)), None)
        image_rows: list[MetadataRow | None] = [entry for entry in entries if isinstance(entry, MetadataRow)]
        yield from ((image, row) for row in image_rows or [None])


def _find_metadata_files(image_root: Path) -> list[PurePosixPath]:
    files = [PurePosixPath(file.path) for file in walk_files(image_root, METADATA_FILE_NAMES.__contains__)]
    if not files:
        raise InputError(
            "no metadata file found",
            where=f"dataset.path = {image_root}",
            expected=" or ".join(METADATA_FILE_NAMES),
            got="none in the folder or its subfolders",
            next_step="add one, or set dataset.labels and dataset.captions to something other than metadata",
        )
    folders = Counter(file.parent for file in files)
    for folder in (folder for folder, count in folders.items() if count > 1):
        raise InputError(
            "a folder has two metadata files",
            where=str(image_root / folder),
            expected="one of " + ", ".join(METADATA_FILE_NAMES),
            got=", ".join(file.name for file in files if file.parent == folder),
            next_step="keep the correct one, and remove or rename the others",
        )
    return files


def _read_batches(image_root: Path, files: list[PurePosixPath], columns: Sequence[str | None]) -> Iterator[pa.RecordBatch]:
    for file in files:
        rows = read_rows(image_root / file, _get_table_format(file), columns)
        while batch := list(itertools.islice(rows, parquet.BATCH_ROWS)):
            names, labels, captions = zip(*(row.cells for row in batch), strict=True)
            paths, faults = [], []
            for row, name in zip(batch, names, strict=True):
                path, fault = find_named_file(image_root, file, name) if name else (f"{file}:line {row.line}", None)
                paths.append(f"{file}:line {row.line}" if row.fault else path)
                faults.append(row.fault or fault)
            yield pa.RecordBatch.from_arrays(
                [pa.array(column, pa.string()) for column in (paths, labels, captions, faults)], schema=METADATA_SCHEMA
            )


def find_named_file(image_root: Path, metadata_file: PurePosixPath, name: str) -> tuple[str, str | None]:
    """Find the file that a metadata row names, relative to `image_root`.

    A name as it is written comes first. Otherwise backslashes count as slashes, a slash at the start is left out, and the
    parts may be in another Unicode form than on disk, as long as one file has the name.

    Returns:
        The path, and a message if no file has the name, but one that differs in case.
    """
    name = name.removeprefix(f"{image_root}/")
    written = os.path.normpath(metadata_file.parent / name)
    if "\0" in name or (not name.startswith("/") and os.path.lexists(image_root / written)):
        return written, None
    found = metadata_file.parent
    for part in PurePosixPath(name.replace("\\", "/").lstrip("/")).parts:
        names = _list_names(image_root / found)
        forms = names.get(unicodedata.normalize("NFC", part), [])
        same = [part] if part in forms or part == ".." else forms
        if len(same) != 1:
            near = next((other for form in names for other in names[form] if form.casefold() == part.casefold()), None)
            return written, f"no file has the name {name!r}; there is {(found / near).as_posix()!r}" if near else None
        found /= same[0]
    return found.as_posix(), None


def forget_listings() -> None:
    """Read folders again in the next call of `find_named_file`."""
    _list_names.cache_clear()


@lru_cache(maxsize=4)
def _list_names(folder: Path) -> dict[str, list[str]]:
    """Return the names in a folder by their NFC form; none if it is no folder."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            names.setdefault(unicodedata.normalize("NFC", path.name), []).append(path.name)
    return names


def _get_table_format(file: PurePosixPath) -> TableFormat:
    return cast("TableFormat", file.suffix[1:])


class FolderSource:
    """The images below a folder, with labels and captions as the config says.

    Unusable items are listed for validation to reject: an image without a label (it is not deep enough in the tree, or
    no metadata row names it); a metadata row without an image, as an item without a path; a caption file that is not
    UTF-8, as an empty text. An image that two metadata rows name is listed twice, which ingest refuses. `skipped`
    counts the entries that are no images by suffix or kind, after `items` has been read to its end.
    """

    modality: Modality = "image"
    image_root: Path | None

    def __init__(self, folder: str | Path, config: ImageFolderConfig) -> None:
        self._folder = self.image_root = Path(folder).expanduser().resolve()
        self._config = config
        self.skipped: Counter[str] = Counter()
        self.labeled = config.labels != "none"
        self._uses_metadata = "metadata" in (config.labels, config.captions)
        if not self._folder.is_dir():
            raise self._build_missing_error(str(folder))
        try:
            os.scandir(self._folder).close()
        except OSError as error:
            raise InputError(
                "the image folder cannot be read",
                where=f"dataset.path = {folder}",
                expected="a folder that this user can list",
                got=error.strerror or str(error),
                next_step="change its permissions, or mount it again",
            ) from None

    def _build_missing_error(self, folder: str) -> InputError:
        return InputError(
            "the image folder does not exist",
            where=f"dataset.path = {folder}",
            expected="a folder with one subfolder of images per label" if self._config.labels == "folder" else "a folder of images",
            got="a file" if self._folder.exists() else f"nothing at {self._folder}",
            next_step=(
                "run indexmill demo, which writes it"
                if folder.endswith("sources/digits/2")
                else "correct dataset.path, or create the folder"
            ),
        )

    def compute_revision(self) -> str:
        """Return a digest of path, size and modification time of every file: those that are no items are counted."""
        return rows_digest((file.path, file.size, file.mtime_ns) for file in self._walk() if file.kind != "hidden")

    def items(self) -> Iterator[Item]:
        """Yield the images in path order."""
        self.skipped.clear()
        images = self._walk_images()
        if not self._uses_metadata:
            yield from (self._make_item(image.path, image, None) for image in images)
            return
        with TemporaryDirectory(prefix="indexmill-") as temp_dir:
            for image, row in join_metadata(images, self._read_metadata(Path(temp_dir))):
                path = image.path if image else row.path if row else ""
                yield self._make_item(path, image, row)

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: images are not scored."""
        return iter(())

    def _make_item(self, path: str, image: FileEntry | None, row: MetadataRow | None) -> Item:
        label = self._get_label(path, row)
        if image is None:
            return Item(key=path, label=label, text=row.caption if row else None, fault=row.fault if row else None)
        return self._make_image_item(image, label, self._get_caption(path, row))

    def _make_image_item(self, image: FileEntry, label: str | None, text: str | None) -> Item:
        return make_image_item(image, label=label, text=text)

    def _get_label(self, path: str, row: MetadataRow | None) -> str | None:
        match self._config.labels:
            case "folder":
                parts, depth = path.split("/"), self._config.label_depth
                return parts[depth - 1] if len(parts) > depth else None
            case "metadata":
                return row.label if row else None
            case "none":
                return None

    def _get_caption(self, path: str, row: MetadataRow | None) -> str | None:
        match self._config.captions:
            case "metadata":
                return row.caption if row else None
            case "text":
                return self._read_caption(get_caption_path(path))
            case "none":
                return None

    def _walk(self) -> Iterator[FileEntry]:
        """Yield everything below the folder in path order."""
        return walk_entries(self._folder)

    def _is_image(self, path: str) -> bool:
        return is_image_file(self._folder / path)

    def _read_metadata(self, temp_dir: Path) -> Iterator[MetadataRow]:
        return read_metadata_rows(self._folder, self._config, temp_dir)

    def _read_caption(self, path: str) -> str | None:
        return read_caption(self._folder / path)

    def _walk_images(self) -> Iterator[FileEntry]:
        """Yield the images, and count all other entries but metadata and captions of images by their kind."""
        unused_captions = UnusedCaptions()
        for entry in self._walk():
            name = PurePosixPath(entry.path).name
            is_caption = self._config.captions == "text" and name.endswith(CAPTION_SUFFIX)
            if entry.kind != "file":
                self.skipped[entry.kind] += 1
            elif is_caption:
                unused_captions.add_caption(entry.path)
            elif self._uses_metadata and name in METADATA_FILE_NAMES:
                continue
            elif self._is_image(entry.path):
                unused_captions.add_image(entry.path)
                yield entry
            else:
                self.skipped[_escape(PurePosixPath(name).suffix.lower()) or "without a suffix"] += 1
        if unused := unused_captions.count():
            self.skipped[f"{CAPTION_SUFFIX} without an image"] += unused


def _escape(suffix: str) -> str:
    return suffix.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")[:20]
