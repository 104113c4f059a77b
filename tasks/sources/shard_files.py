"""Find and open the shards of a data set: local files or URLs, by patterns and braces."""

from __future__ import annotations

import glob
import io
import itertools
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from indexmill.storage.errors import InputError
from indexmill.storage.urls import has_wildcard, is_url
from indexmill.tasks.sources.item_listings import FileState
from indexmill.tasks.sources.remote_files import RemoteFile, RemoteFiles

BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")
PATTERN_START = re.compile(r"[*?\[{]")
MAX_SHARDS = 1_000_000
READ_BYTES = 8 << 20  # of a remote shard per request
REQUESTS_AT_ONCE = 16


def find_shards(pattern: str) -> LocalShards | RemoteShards:
    """Return the shards of a pattern or URL."""
    return RemoteShards(pattern) if is_url(pattern) else LocalShards(pattern)


def expand_braces(pattern: str) -> list[str]:
    """Expand `{00000..00012}` and `{train,val}` as a shell does; numbers keep their width.

    Raises:
        InputError: They name more than MAX_SHARDS files.
    """
    parts = BRACES.split(pattern)  # text, body of a brace, text, …
    options = [_expand_brace(part) if number % 2 else [part] for number, part in enumerate(parts)]
    total = 1
    for option in options:
        total *= len(option)
    if total > MAX_SHARDS:
        raise InputError("the braces name too many shards", where="dataset.path", expected=f"at most {MAX_SHARDS:,}", got=f"{total:,}")
    return ["".join(choice) for choice in itertools.product(*options)]


class LocalShards:
    """Shards on disk. The image root is the folder before the first wildcard or brace."""

    def __init__(self, pattern: str) -> None:
        self._pattern = str(Path(pattern).expanduser().absolute())
        path = Path(self._pattern)
        parts = path.parent.parts if path.is_file() else itertools.takewhile(lambda part: not PATTERN_START.search(part), path.parent.parts)
        self._folder = Path(*parts)
        self.image_root: Path = self._folder.resolve()

    def list_files(self) -> list[FileState]:
        """List the files with size and modification time."""
        literal = Path(self._pattern)
        paths = [literal] if literal.is_file() else [path for name in expand_braces(self._pattern) for path in self._find(name)]
        if not paths:
            raise _build_missing_error(self._pattern, f"no such file in {self._folder}")
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise _build_missing_error(self._pattern, f"{len(missing):,} of {len(paths):,} are missing, such as {missing[0]}")
        files = {path.relative_to(self._folder).as_posix(): path for path in paths}
        return [_describe_file(name, path) for name, path in sorted(files.items())]

    @contextmanager
    def open_file(self, file: FileState) -> Iterator[BinaryIO]:
        """Open the file."""
        with (self.image_root / file.path).open("rb") as content:
            yield content

    def _find(self, name: str) -> list[Path]:
        if not glob.has_magic(name):
            return [Path(name)]
        relative = Path(name).relative_to(self._folder)
        found = (path for path in self._folder.glob(str(relative)) if path.is_file())
        return [path for path in found if not any(part.startswith(".") for part in path.relative_to(self._folder).parts)]


class RemoteShards:
    """Shards behind URLs. The image root is the URL before the first wildcard or brace."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._files = RemoteFiles()
        self.image_root: str = PATTERN_START.split(pattern)[0].rpartition("/")[0]

    def list_files(self) -> list[FileState]:
        """List the files with size, ETag and modification time: by one listing in an object store, else one by one."""
        urls = expand_braces(self._pattern)
        if any(map(has_wildcard, urls)):
            found = [file for url in urls for file in self._files.list_files(url)]
        elif len(urls) > 1 and not self._pattern.startswith("http"):
            wanted = set(urls)
            found = [file for file in self._files.list_files(f"{self.image_root}/") if file.url in wanted]
            if missing := wanted - {file.url for file in found}:
                raise _build_missing_error(self._pattern, f"{len(missing):,} of {len(urls):,} are missing, such as {min(missing)}")
        else:
            with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
                found = list(pool.map(self._files.info, urls))
        if not found:
            raise _build_missing_error(self._pattern, "no such object")
        states = {file.url: _describe_remote(self.image_root, file) for file in found}
        return [states[url] for url in sorted(states)]

    @contextmanager
    def open_file(self, file: FileState) -> Iterator[BinaryIO]:
        """Open the file; it is read in blocks of READ_BYTES."""
        raw = _RangeReader(self._files, f"{self.image_root}/{file.path}", file.size)
        with io.BufferedReader(raw, READ_BYTES) as content:
            yield cast("BinaryIO", content)


class _RangeReader(io.RawIOBase):
    """A remote file, read by range."""

    def __init__(self, files: RemoteFiles, url: str, size: int) -> None:
        self._files, self._url, self._size, self._position = files, url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._position)
        content = self._files.read_range(self._url, self._position, length) if length > 0 else b""
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _expand_brace(body: str) -> list[str]:
    first, dots, last = body.partition("..")
    if not dots:
        return body.split(",")
    width = len(first) if len(first) == len(last) or first.startswith("0") else 0
    low, high = sorted((int(first), int(last)))
    if high - low >= MAX_SHARDS:
        raise InputError("the braces name too many shards", where="dataset.path", expected=f"at most {MAX_SHARDS:,}", got=f"{{{body}}}")
    return [str(number).zfill(width) for number in range(low, high + 1)]


def _describe_file(name: str, path: Path) -> FileState:
    status = path.stat()
    return FileState(name, status.st_size, status.st_mtime_ns, None if os.access(path, os.R_OK) else "unreadable")


def _describe_remote(image_root: str, file: RemoteFile) -> FileState:
    mtime_ns = round(file.modified * 1e9) if file.version else time.time_ns()  # of unknown age: listed in every build
    return FileState(file.url.removeprefix(f"{image_root}/"), file.size, mtime_ns, file.version)


def _build_missing_error(pattern: str, got: str) -> InputError:
    return InputError(
        "no shard found" if "missing" not in got else "a shard is missing",
        where=f"dataset.path = {pattern}",
        expected="tar files, as in shards/{00000..00012}.tar or shards/*.tar",
        got=got,
        next_step="correct dataset.path, or add the shards",
    )
