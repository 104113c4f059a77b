"""Read an item's content from where a table of items says that it is.

A path in such a table is relative to the image root. It names a file, or what is inside one:

    birds/1.jpg                         the file
    00000.tar//000000001536+20480       20480 bytes from byte 1536: a member of a tar shard, a value in a Parquet file
    train.parquet//00002/000017/0/image the column `image` in row 17 of row group 2; of a list, its element 0

No listed path of a file has an empty part, so none contains `//`. The numbers are padded so that contents sort in the
order in which they are stored. A location is such a path with the image root before it.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import SourceUnreachable
from indexmill.storage.object_client import build_client_options, find_error_code
from indexmill.storage.urls import is_url, redact, split_url

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore.store import ObjectStore, RetryConfig

MAX_CONTENT_BYTES = 256 << 20  # of a content inside a file: one that is larger is not an image to search
CELL_BATCH_BYTES = 32 << 20  # of a column in a Parquet file that is held
OPEN_GROUPS = 4  # several threads read at once
READ_BUFFER_BYTES = 1 << 20
REMOTE_RETRIES = 5

_RANGE = re.compile(r"(?P<file>.*[^/])//(?P<offset>\d{1,18})\+(?P<size>\d{1,18})", flags=re.DOTALL)
_CELL = re.compile(r"(?P<file>.*?[^/])//(?P<group>\d{1,9})/(?P<row>\d{1,12})/(?P<element>\d{1,9})/(?P<column>.+)", flags=re.DOTALL)


def format_range_path(file: str, offset: int, size: int) -> str:
    """Return the path of `size` bytes at `offset` of a file."""
    return f"{file}//{offset:012d}+{size}"


def format_cell_path(file: str, *, group: int, row: int, element: int, column: str) -> str:
    """Return the path of a value in a Parquet file; rows are counted from the start of their row group."""
    return f"{file}//{group:05d}/{row:06d}/{element}/{column}"


def join_location(image_root: str | Path, path: str) -> str:
    """Return the location of a path below an image root."""
    return f"{str(image_root).rstrip('/')}/{path}"


def is_image_root_there(image_root: str) -> bool:
    """Return whether the folder of an image root exists; a URL is not asked."""
    return is_url(image_root) or Path(image_root).is_dir()


def find_contained_location(image_root: str | Path, path: str) -> str | None:
    """Return the location of a path; None if its file is outside the image root once links are followed."""
    location = join_location(image_root, path)
    if is_url(location):
        return None if ".." in path.split("/") else location
    folder = Path(image_root).resolve()
    return location if Path(split_location(location)[0]).resolve().is_relative_to(folder) else None


def split_location(location: str) -> tuple[str, str]:
    """Split a location or path into its file and what comes after it; that is empty for a whole file."""
    match = _match_cell(location) or _RANGE.fullmatch(location)
    return (match["file"], location[match.end("file") :]) if match else (location, "")


def read_content(location: str, max_bytes: int | None = None) -> bytes:
    """Read the bytes at a location.

    Args:
        location: The location.
        max_bytes: The most bytes to read; for contents inside a file never more than MAX_CONTENT_BYTES.

    Raises:
        OSError: The file cannot be read, has changed, or its content is larger than allowed.
        SourceUnreachable: The server does not answer; an OSError, too.
        ValueError: The name of the file holds a NUL.
    """
    limit = MAX_CONTENT_BYTES if max_bytes is None else min(max_bytes, MAX_CONTENT_BYTES)
    if match := _match_cell(location):
        cell = [int(match[name]) for name in ("group", "row", "element")]
        return _check_size(_read_cell(match["file"], match["column"], *cell), limit)
    if match := _RANGE.fullmatch(location):
        return _read_range(match["file"], int(match["offset"]), int(match["size"]), limit)
    if is_url(location):
        raise OSError(errno.EINVAL, "not a place inside a file")
    path = Path(location)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise OSError(errno.EINVAL, "not a regular file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return path.read_bytes()


def read_content_digest(image_root: str | Path, path: str | None) -> str | None:
    """Return the digest of the content at a path; None for no path, and for content that cannot be read."""
    if not path:
        return None
    try:
        return content_digest(read_content(join_location(image_root, path)))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


def get_values(value: Any) -> list[bytes | None]:
    """Return the contents in a cell: bytes, Hugging Face's struct of `bytes` and `path`, or a list of either; None for a missing one."""
    match value:
        case list():
            return [content for element in value for content in get_values(element)] or [None]
        case {"bytes": content}:
            return [content]
    return [value if isinstance(value, bytes) else None]


def _match_cell(location: str) -> re.Match[str] | None:
    """Match the location of a cell. Parquet files are read from disk only, and `s3://123/4/5/x` is none."""
    return None if is_url(location) else _CELL.fullmatch(location)


def _read_range(file: str, offset: int, size: int, limit: int) -> bytes:
    if size > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if is_url(file):
        data = _read_remote_range(file, offset, size)
    else:
        with Path(file).open("rb") as content:
            data = os.pread(content.fileno(), size, offset)
    if len(data) != size:
        raise OSError(errno.EIO, "the file is shorter than when it was listed")
    return data


def _read_remote_range(url: str, offset: int, size: int) -> bytes:
    from obstore.exceptions import BaseError

    _, base, key = split_url(url, "an image")
    try:
        return bytes(_connect(base).get_range(key, start=offset, length=size)) if size else b""
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), redact(url)) from None
    except BaseError as error:
        raise SourceUnreachable(
            "an image cannot be read from where the data set is",
            where=redact(url),
            got=redact(find_error_code(str(error))[1]),
            next_step="check the network and the credentials, then run the build again",
        ) from None


@functools.cache
def _connect(base: str) -> ObjectStore:
    """Open the connections to a bucket or host, once per process. obstore repeats requests that fail for the moment."""
    import obstore.store

    retries: RetryConfig = {
        "max_retries": REMOTE_RETRIES,
        "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=10), "base": 2},
    }
    return obstore.store.from_url(base, client_options=build_client_options(base), retry_config=retries)


def _check_size(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def _read_cell(file: str, column: str, group: int, row: int, element: int) -> bytes:
    import pyarrow as pa  # slow to import, and most images are files

    try:
        status = Path(file).stat()
        value = _open_group(file, (status.st_size, status.st_mtime_ns), column, group).read(row)
    except (pa.ArrowException, IndexError, KeyError) as error:
        raise OSError(errno.EIO, f"the table is not what was listed: {error}") from None
    values = get_values(value)
    content = values[element] if element < len(values) else None
    if content is None:
        raise OSError(errno.ENODATA, "the table has no bytes there")
    return content


class _GroupReader:
    """A column of a row group, read forward in batches of about CELL_BATCH_BYTES; going back starts again. For several threads."""

    def __init__(self, file: str, column: str, group: int) -> None:
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            metadata = table.metadata.row_group(group)
        chunks = map(metadata.column, range(metadata.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column}."))
        self._batch_rows = max(1, CELL_BATCH_BYTES * metadata.num_rows // max(size, 1))
        self._file, self._column, self._group = file, column, group
        self._lock = threading.Lock()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._values: pa.Array | None = None
        self._start = 0  # the row of the first value

    def read(self, row: int) -> Any:
        """Return a row's value. Raises IndexError if there is no such row."""
        with self._lock:
            if self._values is None or row < self._start:
                self._batches, self._values, self._start = self._open(), None, 0
            while self._values is None or row >= self._start + len(self._values):
                self._start += len(self._values) if self._values is not None else 0
                batch = next(self._batches, None)
                self._values = None if batch is None else batch.column(0)
                if self._values is None:
                    raise IndexError(f"row group {self._group} has no row {row}")
            return self._values[row - self._start].as_py()

    def _open(self) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._file, buffer_size=READ_BUFFER_BYTES) as table:
            yield from table.iter_batches(batch_size=self._batch_rows, row_groups=[self._group], columns=[self._column])


@functools.lru_cache(maxsize=OPEN_GROUPS)
def _open_group(file: str, version: tuple[int, int], column: str, group: int) -> _GroupReader:
    """Open a column of a row group. `version` keeps the values of an older file apart."""
    del version
    return _GroupReader(file, column, group)
