"""Hugging Face ImageFolder's metadata files: what they say of images, put beside the images that are there.

Both sides come in the order of their paths, so that they are joined as they pass by and neither is ever held whole.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import pyarrow as pa

from indexmill.configs.datasets import ImageFolderConfig
from indexmill.storage import parquet
from indexmill.storage.errors import InputError
from indexmill.tasks.sources.columns import TableFormat, require_columns, text_rows
from indexmill.tasks.sources.images import FoundFile, walk

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

ROWS = pa.schema({"path": pa.string(), "label": pa.string(), "caption": pa.string()})


@dataclass(frozen=True)
class MetadataRow:
    """What a metadata file says of the image at `path`, which starts from the same folder as the images' paths."""

    path: str
    label: str | None
    caption: str | None


def metadata_rows(image_root: Path, config: ImageFolderConfig, spill: Path) -> Iterator[MetadataRow]:
    """The rows of all metadata files below `image_root`, in path order.

    A row without a file name goes by the name of its metadata file. Raises InputError on a file that cannot be used.
    """
    label = config.label_column if config.labels == "metadata" else None
    caption = config.caption_column if config.captions == "metadata" else None
    files = _metadata_files(image_root)
    named = {"dataset.label_column": label, "dataset.caption_column": caption, "Hugging Face's layout": "file_name"}
    for file in files:
        require_columns(image_root / file, _form(file), {who: column for who, column in named.items() if column}, spill)
    listing = spill / "metadata.parquet"
    parquet.write_parquet(listing, ROWS, _batches(image_root, files, ("file_name", label, caption), spill))
    sql = f"SELECT path, label, caption FROM {parquet.scan_sql(listing)} ORDER BY string_split(path, '/')"
    with parquet.query(sql, spill=spill) as batches:
        for batch in batches:
            yield from (MetadataRow(**row) for row in batch.to_pylist())


def joined(images: Iterable[FoundFile], rows: Iterable[MetadataRow]) -> Iterator[tuple[FoundFile | None, MetadataRow | None]]:
    """Every image with its row, an image without a row, a row without an image; an image that two rows name comes twice."""
    sides: tuple[Iterable[FoundFile | MetadataRow], ...] = (images, rows)
    stream = heapq.merge(*sides, key=lambda entry: entry.path.split("/"))
    for _, group in itertools.groupby(stream, key=lambda entry: entry.path):
        entries = list(group)
        image = next((entry for entry in entries if isinstance(entry, FoundFile)), None)
        named: list[MetadataRow | None] = [entry for entry in entries if isinstance(entry, MetadataRow)]
        yield from ((image, row) for row in named or [None])


def _metadata_files(image_root: Path) -> list[PurePosixPath]:
    files = [PurePosixPath(file.path) for file in walk(image_root, NAMES.__contains__)]
    if not files:
        raise InputError(
            "there is no metadata file",
            where=f"dataset.path = {image_root}",
            expected=" or ".join(NAMES),
            got="none in the folder or below it",
            next_step="add one, or set dataset.labels and dataset.captions to something other than metadata",
        )
    folders = Counter(file.parent for file in files)
    for folder in (folder for folder, count in folders.items() if count > 1):
        raise InputError(
            "a folder has two metadata files",
            where=str(image_root / folder),
            expected="one of " + ", ".join(NAMES),
            got=", ".join(file.name for file in files if file.parent == folder),
            next_step="keep the one that holds, and remove or rename the others",
        )
    return files


def _batches(image_root: Path, files: list[PurePosixPath], columns: Sequence[str | None], spill: Path) -> Iterator[pa.RecordBatch]:
    for file in files:
        rows = text_rows(image_root / file, _form(file), columns, spill)
        while chunk := list(itertools.islice(rows, parquet.BATCH_ROWS)):
            names, labels, captions = zip(*chunk, strict=True)
            paths = [(file.parent / (name or file.name)).as_posix() for name in names]
            yield pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in (paths, labels, captions)], schema=ROWS)


def _form(file: PurePosixPath) -> TableFormat:
    return cast("TableFormat", file.suffix[1:])
