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
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import SourceUnreachable
from indexmill.storage.object_client import build_client_options, find_error_code, redact

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore.store import ObjectStore, RetryConfig

MAX_CONTENT_BYTES = 256 << 20  # of a content inside a file: one that is larger is not an image to search
MAX_CACHED_GROUP_BYTES = 64 << 20
LARGE_GROUP_BATCH_ROWS = 16
CACHED_GROUPS = 4  # several threads read at once
READ_BUFFER_BYTES = 1 << 20
REMOTE_RETRIES = 5

_URL = re.compile(r"(s3|gs|az|https?)://")
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


def is_url(location: str) -> bool:
    """Return whether a location is in an object store or behind a web address, and not on disk."""
    return bool(_URL.match(location))


def find_contained_location(image_root: str | Path, path: str) -> str | None:
    """Return the location of a path; None if its file is outside the image root once links are followed."""
    location = join_location(image_root, path)
    if is_url(location):
        return None if ".." in path.split("/") else location
    folder = Path(image_root).resolve()
    return location if Path(split_location(location)[0]).resolve().is_relative_to(folder) else None


def split_location(location: str) -> tuple[str, str]:
    """Split a location or path into its file and what comes after it; that is empty for a whole file."""
    match = _RANGE.fullmatch(location) or _CELL.fullmatch(location)
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
    if match := _RANGE.fullmatch(location):
        return _read_range(match["file"], int(match["offset"]), int(match["size"]), limit)
    if match := _CELL.fullmatch(location):
        cell = [int(match[name]) for name in ("group", "row", "element")]
        return _check_size(_read_cell(match["file"], match["column"], *cell), limit)
    if is_url(location):
        raise OSError(errno.EINVAL, "not a place inside a file")
    path = Path(location)
    if max_bytes is not None and path.stat().st_size > max_bytes:
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

    base, key = _split_url(url)
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


def _split_url(url: str) -> tuple[str, str]:
    """Return the bucket or host as a URL, and the key below it."""
    scheme, _, rest = url.partition("://")
    host, _, key = rest.partition("/")
    return f"{scheme}://{host}", unquote(key) if scheme.startswith("http") else key


@functools.cache
def _connect(base: str) -> ObjectStore:
    """Open the connections to a bucket or host, once per process. obstore repeats requests that fail for the moment."""
    import obstore.store

    options = build_client_options()
    if base.startswith("http://"):
        options["allow_http"] = True
    retries: RetryConfig = {
        "max_retries": REMOTE_RETRIES,
        "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=10), "base": 2},
    }
    return obstore.store.from_url(base, client_options=options, retry_config=retries)


def _check_size(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def _read_cell(file: str, column: str, group: int, row: int, element: int) -> bytes:
    import pyarrow as pa  # slow to import, and most images are files

    try:
        status = Path(file).stat()
        value = _read_cell_value(file, (status.st_size, status.st_mtime_ns), column, group, row)
    except (pa.ArrowException, IndexError, KeyError) as error:
        raise OSError(errno.EIO, f"the table is not what was listed: {error}") from None
    values = get_values(value)
    content = values[element] if element < len(values) else None
    if content is None:
        raise OSError(errno.ENODATA, "the table has no bytes there")
    return content


def _read_cell_value(file: str, version: tuple[int, int], column: str, group: int, row: int) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, buffer_size=READ_BUFFER_BYTES) as table:
        column_bytes = sum(
            chunk.total_uncompressed_size
            for chunk in map(table.metadata.row_group(group).column, range(table.metadata.num_columns))
            if f"{chunk.path_in_schema}.".startswith(f"{column}.")
        )
        if column_bytes > MAX_CACHED_GROUP_BYTES:
            for batch in table.iter_batches(batch_size=LARGE_GROUP_BATCH_ROWS, row_groups=[group], columns=[column]):
                if row < batch.num_rows:
                    return batch.column(column)[row].as_py()
                row -= batch.num_rows
            raise IndexError(f"row group {group} has no such row")
    return _read_group(file, version, column, group)[row].as_py()


@functools.lru_cache(maxsize=CACHED_GROUPS)
def _read_group(file: str, version: tuple[int, int], column: str, group: int) -> pa.ChunkedArray:
    """Read a column of a row group. `version` keeps the values of an older file apart."""
    import pyarrow.parquet as pq

    del version
    with pq.ParquetFile(file) as table:
        return table.read_row_group(group, columns=[column]).column(column)
