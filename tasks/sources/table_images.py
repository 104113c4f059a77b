"""Images inside a Parquet table: bytes, Hugging Face's struct of `bytes` and `path`, or lists of either.

A table is read once, batch by batch. After that an image is a range of the file where the column is stored as it is
(uncompressed), and else a cell of a row group.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage.contents import MAX_CONTENT_BYTES, READ_BUFFER_BYTES, format_cell_path, format_range_path, get_values
from indexmill.storage.digests import content_digest
from indexmill.tasks.sources.table_reader import translate_read_errors

MAX_BATCH_ROWS = 256
BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class TableImage:
    """One image of a row: its path below the image root, its size and digest, or why it cannot be read."""

    path: str | None = None
    size: int | None = None
    content_digest: str | None = None
    fault: str | None = None


def holds_images(kind: pa.DataType) -> bool:
    """Return whether values of an Arrow type are images: bytes, a struct with `bytes`, or a list of these."""
    if holds_lists(kind):
        return holds_images(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def holds_lists(kind: pa.DataType) -> bool:
    """Return whether a row has a list of images."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def read_table_images(file: Path, name: str, column: str) -> Iterator[list[TableImage]]:
    """Yield the images of each row. Memory: one batch of about BATCH_BYTES, or one page of the file if that is larger.

    Args:
        file: The table.
        name: Its path below the image root.
        column: The column of images.

    Raises:
        InputError: The file is damaged.
    """
    with translate_read_errors(file, "parquet"), pq.ParquetFile(file, buffer_size=READ_BUFFER_BYTES) as table, _open_map(file) as content:
        for group in range(table.num_row_groups):
            chunk = _find_chunk(table.metadata.row_group(group), column)
            ranges = _Ranges(content, chunk.start, chunk.end) if chunk.is_plain else None
            row = 0
            for batch in table.iter_batches(batch_size=chunk.batch_rows, row_groups=[group], columns=[column]):
                for value in batch.column(0):
                    yield [
                        _make_image(name, image, ranges, cell={"group": group, "row": row, "element": element, "column": column})
                        for element, image in enumerate(get_values(value.as_py()))
                    ]
                    row += 1


@dataclass(frozen=True)
class _Chunk:
    """Where the values of a column are in a row group, whether they are stored as they are, and how many to read at once."""

    start: int
    end: int
    is_plain: bool
    batch_rows: int


@dataclass
class _Ranges:
    """Finds values in an uncompressed column chunk, in which each is stored in one piece and in order.

    A range is right wherever it is found, since it is found by its content.
    """

    content: mmap.mmap
    start: int
    end: int
    position: int = field(init=False)
    is_usable: bool = True

    def __post_init__(self) -> None:
        self.position = self.start

    def find(self, value: bytes) -> int | None:
        """Return the offset of a value in the file. After one that is not found, none is looked for."""
        if not self.is_usable or not value:
            return None
        found = self.content.find(value, self.position, self.end)
        if found < 0:
            found = self.content.find(value, self.start, self.end)  # a value that repeats, in a dictionary
        if found < 0:
            self.is_usable = False
            return None
        self.position = found + len(value)
        return found


def _open_map(file: Path) -> mmap.mmap:
    with file.open("rb") as content:
        return mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)


def _find_chunk(group: pq.RowGroupMetaData, column: str) -> _Chunk:
    columns = [group.column(number) for number in range(group.num_columns)]
    columns = [chunk for chunk in columns if f"{chunk.path_in_schema}.".startswith(f"{column}.")]
    images = next((chunk for chunk in columns if chunk.path_in_schema.endswith(".bytes")), columns[0])
    start = min(filter(None, (images.dictionary_page_offset, images.data_page_offset)))
    row_bytes = sum(chunk.total_uncompressed_size for chunk in columns) // max(group.num_rows, 1)
    batch_rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))
    return _Chunk(start, start + images.total_compressed_size, images.compression == "UNCOMPRESSED", batch_rows)


def _make_image(name: str, content: bytes | None, ranges: _Ranges | None, cell: dict[str, Any]) -> TableImage:
    if content is None:
        return TableImage(fault="the row has no image bytes")
    if len(content) > MAX_CONTENT_BYTES:
        return TableImage(fault=f"the image has {len(content):,} bytes, more than {MAX_CONTENT_BYTES:,}")
    offset = ranges.find(content) if ranges else None
    path = format_cell_path(name, **cell) if offset is None else format_range_path(name, offset, len(content))
    return TableImage(path, len(content), content_digest(content))
