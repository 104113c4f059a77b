"""The rows of a stream kept on disk: images as files in the bytes that they came in, all else in one Parquet file a split.

A split's Parquet file comes last, so that a split is there as a whole or is read again; images that are there already stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, IterableDataset

from indexmill.storage import parquet
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources.downloads import nearest
from indexmill.tasks.sources.images import SUFFIXES

ROWS = pa.schema({"key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string(), "size": pa.int64()})
BATCH_ROWS = 1024
FILES_A_FOLDER = 1000


def rows_path(folder: Path, split: str) -> Path:
    """Where the rows of a split are kept."""
    return folder / f"rows-{split}.parquet"


class Keeper:
    """Keeps splits below `folder`. columns: the column for each of the uses image, text, label and key. read: the bytes behind a path."""

    def __init__(self, columns: Mapping[str, str], folder: Path, root: Root, read: Callable[[str], bytes]) -> None:
        self._columns, self._folder, self._root, self._read = columns, folder, root, read

    def keep(self, split: str, stream: IterableDataset) -> int:
        """Write the rows of a split unless they are there; their number."""
        target = rows_path(self._folder, split)
        if not target.exists():
            rows = self._rows(split, stream)
            with self._root.replace_atomically(target) as temporary, parquet.open_writer(temporary, ROWS) as writer:
                while chunk := list(itertools.islice(rows, BATCH_ROWS)):
                    writer.write(chunk)
        return int(pq.read_metadata(target).num_rows)

    def _rows(self, split: str, stream: IterableDataset) -> Iterator[dict[str, Any]]:
        """What is kept of each row; writes the images on the way."""
        self._check_columns(stream)
        names = _class_names(stream, self._columns.get("label"))
        image = self._columns.get("image")
        if stream.features:
            stream = stream.decode(False)  # casting the column would not do: a streamed image folder is decoded before the cast
        stream = stream.select_columns(list(dict.fromkeys(self._columns.values())))
        for number, row in enumerate(stream):
            kept = {use: row[column] for use, column in self._columns.items()}
            yield {
                "key": f"{split}/{self._text('key', kept['key'], number) if 'key' in kept else f'{number:08d}'}",
                "label": _label(kept.get("label"), names),
                "text": self._text("text", kept.get("text"), number),
                **(self._image(split, number, kept["image"]) if image else {}),
            }

    def _check_columns(self, stream: IterableDataset) -> None:
        there = stream.column_names or list(next(iter(stream), {}))
        for use, column in self._columns.items():
            if column not in there:
                raise InputError(
                    "the data set has no such column",
                    where=f"dataset.{use}_column = {column}",
                    expected="a column of the data set",
                    got=nearest(column, there),
                    next_step=f"name one of them in dataset.{use}_column",
                )

    def _text(self, use: str, value: object, number: int) -> str | None:
        if value is None and use == "text":
            return None if "image" in self._columns else ""
        if not isinstance(value, str | int | float):
            raise self._unfit(use, value, number)
        return str(value)

    def _image(self, split: str, number: int, value: object) -> dict[str, Any]:
        """Write an image's bytes as they are; the path relative to the folder and the size, which is null where the row has none."""
        content, name = self._content(value, number)
        suffix = PurePosixPath(name).suffix.lower()
        where = PurePosixPath("images", split, f"{number // FILES_A_FOLDER:05d}", f"{number:08d}{suffix if suffix in SUFFIXES else ''}")
        path = self._folder / where
        if content is None:
            return {"path": str(where), "size": None}
        if not path.is_file() or path.stat().st_size != len(content):
            with self._root.replace_atomically(path) as temporary:
                temporary.write_bytes(content)
        return {"path": str(where), "size": len(content)}

    def _content(self, value: object, number: int) -> tuple[bytes | None, str]:
        """The bytes and the name of an image, however the data set gives it."""
        match value:
            case {"bytes": bytes(content), **rest}:
                return content, str(rest.get("path") or "")
            case {"path": str(path)} | str(path):
                return self._read(path), path
            case bytes(content):
                return content, ""
            case None | {"bytes": None, "path": None}:
                return None, ""
        raise self._unfit("image", value, number)

    def _unfit(self, use: str, value: object, number: int) -> InputError:
        return InputError(
            f"a column cannot serve as {use}",
            where=f"dataset.{use}_column = {self._columns[use]}, row {number}",
            expected="an image, its bytes or its path" if use == "image" else "a text or a number in every row",
            got=f"{type(value).__name__} {str(value)[:60]}",
            next_step=f"name another dataset.{use}_column",
        )


def _class_names(stream: IterableDataset, column: str | None) -> list[str] | None:
    feature = (stream.features or {}).get(column)
    return feature.names if isinstance(feature, ClassLabel) else None


def _label(value: object, names: list[str] | None) -> str | None:
    """A label as text; a class number as its name. Data sets write -1 for `not told`."""
    if value is None or (names and value == -1):
        return None
    return names[value] if names and isinstance(value, int) else str(value)
