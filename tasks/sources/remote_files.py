"""Files behind URLs: s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY, https://HOST/PATH and http://HOST/PATH.

obstore does the requests; it repeats those that fail with 429, 5xx, a time-out or a lost connection, and continues a
body that was cut. Added here: patterns, size limits, and errors in Indexmill's words. Credentials and endpoints come
from the environment, by the names that each provider's own tools use, as for a root in an object store.

These URLs come from the config. For those in a data set's rows, see `web_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.object_client import (
    BLOCK_BYTES,
    MISSING_BUCKET_CODES,
    REFUSAL_PATTERN,
    build_client_options,
    find_error_code,
)
from indexmill.storage.urls import MAGIC, WEB_SCHEMES, compile_pattern, has_wildcard, redact, split_url
from indexmill.tasks.retry import RetryPolicy, with_retries

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

T = TypeVar("T")

MAX_READ_BYTES = 1 << 30  # of a file that is read into memory, unless the caller says another limit


class FileMissing(InputError):
    """A URL leads to no file (404)."""


class InvalidUrl(InputError):
    """A URL has a host or a path that no server can be asked for."""


class FileTooLarge(InputError):
    """A file is larger than the limit."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as a listing or a HEAD request shows it.

    Attributes:
        url: Its URL.
        size: Its size in bytes.
        etag: What changes with its content, if the server says so.
        modified: Its modification time in Unix seconds by the server's clock; 0 if the server gives none.
    """

    url: str
    size: int
    etag: str | None
    modified: float

    @property
    def version(self) -> str | None:
        """What changes with the content: the ETag, or size and time; None if the server gives neither."""
        return self.etag or (f"{self.size}/{self.modified}" if self.modified else None)


@dataclass
class RemoteFiles:
    """Lists and reads files behind URLs. Holds one connection pool per bucket or host. Can be pickled.

    Attributes:
        where: The config key for errors.
        retry_policy: Attempts per request, waits, and the seconds that a connection may stay silent.
    """

    where: str = "dataset.path"
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    _stores: dict[str, ObjectStore] = field(default_factory=dict, repr=False)

    def list_files(self, url: str) -> Iterator[RemoteFile]:
        """Yield the files that a URL names, a thousand per request; in the order of their keys on S3.

        Args:
            url: A pattern (`*` and `?` within a name, `**` for any folders), a folder (all files below it), or a file.
                A web address names one file.

        Raises:
            InputError: The bucket or the file does not exist, or the server refuses the credentials.
            SourceUnreachable: The server does not answer.
        """
        scheme, base, key = split_url(url, self.where)
        if scheme in WEB_SCHEMES:
            yield self.info(url)
            return
        pattern = compile_pattern(key) if has_wildcard(url) else None
        folder = MAGIC.split(key)[0].rpartition("/")[0] if pattern else key.rstrip("/")
        if not pattern and key and not key.endswith("/") and (file := self._find(url)):
            yield file
            return
        store = self._connect(base)
        with self._translate(url):
            for batch in store.list(folder or None, chunk_size=1000):
                for entry in batch:
                    path = entry["path"]
                    if pattern is None or pattern.fullmatch(path):
                        yield _describe(f"{base}/{path}", entry)

    def info(self, url: str) -> RemoteFile:
        """Describe one file (HEAD). Raises FileMissing when there is none, and what `list_files` raises."""
        _, base, key = split_url(url, self.where)
        store = self._connect(base)
        with self._translate(url):
            return _describe(url, store.head(key))

    def read_range(self, url: str, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`; fewer when the file ends before.

        Raises:
            InputError: There is no such file, the server refuses the request, or it does not know ranges.
            SourceUnreachable: The server does not answer.
        """
        if length <= 0:
            return b""
        _, base, key = split_url(url, self.where)
        store = self._connect(base)

        def read() -> bytes:
            with self._translate(url):
                result = store.get(key, options={"range": (offset, offset + length)})
                return _read_body(result)

        return self._with_retries(read, url)

    def read(self, url: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Read a whole file into memory. Raises FileTooLarge beyond `max_bytes`, and what `read_range` raises."""
        _, base, key = split_url(url, self.where)
        store = self._connect(base)

        def read() -> bytes:
            with self._translate(url):
                result = store.get(key)
                _check_size(url, result.meta["size"], max_bytes)
                return _read_body(result)

        return self._with_retries(read, url)

    def fetch(self, url: str, target: Path, *, max_bytes: int | None = None) -> RemoteFile:
        """Download a file into the new file `target`, in blocks. Raises what `read` raises.

        Returns:
            The file as it was when it was downloaded.
        """
        _, base, key = split_url(url, self.where)
        store = self._connect(base)

        def fetch() -> RemoteFile:
            with self._translate(url):
                return _write_body(url, store.get(key), target, max_bytes)

        return self._with_retries(fetch, url)

    def fetch_if_changed(self, url: str, target: Path, etag: str | None, *, max_bytes: int | None = None) -> RemoteFile | None:
        """Download a file as `fetch` does, unless it still has an ETag: then return None."""
        from obstore.exceptions import NotModifiedError

        if etag is None:
            return self.fetch(url, target, max_bytes=max_bytes)
        _, base, key = split_url(url, self.where)
        store = self._connect(base)

        def fetch() -> RemoteFile | None:
            with self._translate(url):
                try:
                    result = store.get(key, options={"if_none_match": etag})
                except NotModifiedError:
                    return None
                return _write_body(url, result, target, max_bytes)

        return self._with_retries(fetch, url)

    def _find(self, url: str) -> RemoteFile | None:
        try:
            return self.info(url)
        except FileMissing:
            return None

    def _connect(self, base: str) -> ObjectStore:
        import obstore.store  # 0.03 s, but most sources are on disk

        if base not in self._stores:
            policy = self.retry_policy
            retries: RetryConfig = {
                "max_retries": policy.attempts - 1,
                "retry_timeout": timedelta(minutes=10),  # the attempts end it, not the time
                "backoff": {
                    "init_backoff": timedelta(seconds=policy.first_wait_s),
                    "max_backoff": timedelta(seconds=policy.max_wait_s),
                    "base": 2,
                },
            }
            options = build_client_options(base, silent_seconds=policy.timeout_s)
            with self._translate(base):
                self._stores[base] = obstore.store.from_url(base, client_options=options, retry_config=retries)
        return self._stores[base]

    def _with_retries(self, call: Callable[[], T], url: str) -> T:
        """Repeat a call whose body was cut. The requests themselves have been repeated by obstore."""
        return with_retries(call, self.retry_policy, where=redact(url), transient_errors=(), service="the server")

    @contextmanager
    def _translate(self, url: str) -> Iterator[None]:
        """Translate obstore's errors. They are never chained: their text may name parts of a signed request."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:  # ValueError: a path with .., a port that is none
            raise self._build_error(error, redact(url)) from None

    def _build_error(self, error: Exception, url: str) -> Exception:
        from obstore.exceptions import (
            InvalidPathError,
            NotSupportedError,
            PermissionDeniedError,
            UnauthenticatedError,
            UnknownConfigurationKeyError,
        )

        text = str(error)
        code, reason = find_error_code(text)
        where, got = f"{self.where}: {url}", redact(reason)
        if code in MISSING_BUCKET_CODES or "bucket does not exist" in text:
            return InputError("there is no such bucket", where=where, got=got, next_step=f"correct {self.where}")
        if isinstance(error, FileNotFoundError):
            next_step = f"correct {self.where}"
            if url.startswith("http") and MAGIC.search(url):
                next_step += "; a web server lists no files, so name them without wildcards, as in {00000..00012}.tar"
            return FileMissing("there is no such file", where=where, got="404 Not Found", next_step=next_step)
        if isinstance(error, NotSupportedError):
            return InputError(
                "the server does not send parts of files",
                where=where,
                expected="an answer to a range request",
                got=got,
                next_step="use a server that answers range requests, such as nginx, or download the files and set a local path",
            )
        if isinstance(error, UnknownConfigurationKeyError | InvalidPathError | ValueError):
            return InvalidUrl(
                "this URL cannot be read",
                where=where,
                expected="a valid host, and a path without empty names, . and ..",
                got=got,
                next_step=f"correct {self.where}",
            )
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or REFUSAL_PATTERN.search(text):
            return InputError(
                "the server refuses the request",
                where=where,
                expected="credentials that may list and read here",
                got=got,
                next_step="check the credentials in the environment (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
                " AWS_SKIP_SIGNATURE=true for a public bucket)",
            )
        return SourceUnreachable(
            "the server does not answer",
            where=where,
            expected=f"an answer within {self.retry_policy.attempts} attempts",
            got=got,
            next_step="check the network and the endpoint, then run the build again",
        )


def _describe(url: str, entry: Any) -> RemoteFile:
    return RemoteFile(url, entry["size"], entry.get("e_tag"), entry["last_modified"].timestamp())


def _check_size(url: str, size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise FileTooLarge("a file is too large", where=redact(url), expected=f"at most {max_bytes:,} bytes", got=f"{size:,} bytes")


def _read_body(result: Any) -> bytes:
    with _cut_bodies():
        content = bytes(result.bytes())
    start, end = result.range
    if len(content) != end - start:
        raise ConnectionError(f"the answer was cut after {len(content):,} of {end - start:,} bytes")
    return content


def _write_body(url: str, result: Any, target: Path, max_bytes: int | None) -> RemoteFile:
    _check_size(url, result.meta["size"], max_bytes)
    with target.open("wb") as file, _cut_bodies():
        for block in result.stream(min_chunk_size=BLOCK_BYTES):
            file.write(block)
        if file.tell() != result.meta["size"]:
            raise ConnectionError(f"the answer was cut after {file.tell():,} of {result.meta['size']:,} bytes")
    return _describe(url, result.meta)


@contextmanager
def _cut_bodies() -> Iterator[None]:
    """Turn the errors of a body that could not be continued into transient ones."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise ConnectionError(f"the answer was cut: {redact(find_error_code(str(error))[1])}") from None
