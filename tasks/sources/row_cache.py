"""Write streamed rows to disk: images as files with their original bytes, the rest as one Parquet file per split.

The Parquet file of a split is written last, so a split is either complete or read again. Images on disk are kept.
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
from indexmill.tasks.sources.downloads import list_with_nearest
from indexmill.tasks.sources.image_files import IMAGE_SUFFIXES
from indexmill.tasks.sources.table_cells import format_number, is_nan

ROWS_SCHEMA = pa.schema({"key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string(), "size": pa.int64()})
BATCH_ROWS = 1024
FILES_PER_FOLDER = 1000


def get_rows_path(folder: Path, split: str) -> Path:
    """Return the path of a split's Parquet file."""
    return folder / f"rows-{split}.parquet"


class RowCacheWriter:
    """Write the rows of splits below a folder.

    Args:
        columns: Role -> column; the roles are image, text, label and key.
        folder: The folder to write to.
        root: The storage root, for atomic writes.
        read_file: Returns the bytes of a file that a row names by path.
    """

    def __init__(self, *, columns: Mapping[str, str], folder: Path, root: Root, read_file: Callable[[str], bytes]) -> None:
        self._columns, self._folder, self._root, self._read_file = columns, folder, root, read_file

    def write_split(self, split: str, stream: IterableDataset) -> int:
        """Write the rows of a split unless they are complete on disk. Returns their number."""
        target = get_rows_path(self._folder, split)
        if not target.exists():
            rows = self._iterate_rows(split, stream)
            with self._root.replace_atomically(target) as temporary, parquet.open_writer(temporary, ROWS_SCHEMA) as writer:
                while batch := list(itertools.islice(rows, BATCH_ROWS)):
                    writer.write(batch)
        return int(pq.read_metadata(target).num_rows)

    def _iterate_rows(self, split: str, stream: IterableDataset) -> Iterator[dict[str, Any]]:
        """Yield the row to store for each row of the stream, and write its image."""
        self._check_columns(stream)
        names = _get_class_names(stream, self._columns.get("label"))
        image = self._columns.get("image")
        if stream.features:
            stream = stream.decode(False)  # casting the column is too late: a streamed image folder is decoded before the cast
        stream = stream.select_columns(list(dict.fromkeys(self._columns.values())))
        for row_number, row in enumerate(stream):
            values = {role: row[column] for role, column in self._columns.items()}
            key = self._convert_text("key", values["key"], row_number) if "key" in values else f"{row_number:08d}"
            yield {
                "key": f"{split}/{key}",
                "label": _convert_label(values.get("label"), names),
                "text": self._convert_text("text", values.get("text"), row_number),
                **(self._write_image(split, row_number, values["image"]) if image else {}),
            }

    def _check_columns(self, stream: IterableDataset) -> None:
        available = stream.column_names or list(next(iter(stream), {}))
        for role, column in self._columns.items():
            if column not in available:
                raise InputError(
                    "the data set has no such column",
                    where=f"dataset.{role}_column = {column}",
                    expected="a column of the data set",
                    got=list_with_nearest(column, available),
                    next_step=f"set dataset.{role}_column to one of them",
                )

    def _convert_text(self, role: str, value: object, row_number: int) -> str | None:
        if role == "text" and (value is None or is_nan(value)):
            return None if "image" in self._columns else ""
        if not isinstance(value, str | int | float):
            raise self._build_column_error(role, value, row_number)
        return "" if is_nan(value) else format_number(value)

    def _write_image(self, split: str, row_number: int, value: object) -> dict[str, Any]:
        """Write an image's original bytes. Returns its relative path and its size, None if the row has no image."""
        content, name = self._read_image(value, row_number)
        suffix = PurePosixPath(name).suffix.lower()
        file_name = f"{row_number:08d}{suffix if suffix in IMAGE_SUFFIXES else ''}"
        relative_path = PurePosixPath("images", split, f"{row_number // FILES_PER_FOLDER:05d}", file_name)
        path = self._folder / relative_path
        if content is None:
            return {"path": str(relative_path), "size": None}
        if not path.is_file() or path.stat().st_size != len(content):
            with self._root.replace_atomically(path) as temporary:
                temporary.write_bytes(content)
        return {"path": str(relative_path), "size": len(content)}

    def _read_image(self, value: object, row_number: int) -> tuple[bytes | None, str]:
        """Return the bytes and the file name of an image, in any of the ways that data sets store it."""
        match value:
            case {"bytes": bytes(content), **rest}:
                return content, str(rest.get("path") or "")
            case {"path": str(path)} | str(path):
                return self._read_file(path), path
            case bytes(content):
                return content, ""
            case None | {"bytes": None, "path": None}:
                return None, ""
        raise self._build_column_error("image", value, row_number)

    def _build_column_error(self, role: str, value: object, row_number: int) -> InputError:
        return InputError(
            f"a column cannot be used as {role}",
            where=f"dataset.{role}_column = {self._columns[role]}, row {row_number}",
            expected="an image, its bytes or its path" if role == "image" else "a text or a number in every row",
            got=f"{type(value).__name__} {str(value)[:60]}",
            next_step=f"choose another dataset.{role}_column",
        )


def _get_class_names(stream: IterableDataset, column: str | None) -> list[str] | None:
    feature = (stream.features or {}).get(column)
    return feature.names if isinstance(feature, ClassLabel) else None


def _convert_label(value: object, names: list[str] | None) -> str | None:
    """Return a label as text, a class number as its name. Data sets write -1 for unknown."""
    if value is None or is_nan(value) or (names and value == -1):
        return None
    return names[value] if names and isinstance(value, int) else format_number(value)
