"""A client for one prefix of an object store (S3, Google Cloud Storage, Azure): whole objects and conditional writes.

obstore does the work. Added here: time-outs and patience, errors in Indexmill's words, digests that are checked on
download, and conditional writes that are still right when the answer to a successful one was lost: every write carries
a nonce, and after a refusal the object is read back and its nonce compared.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from indexmill.storage.digests import file_digest
from indexmill.storage.errors import DamagedFile, IndexmillError, InputError, RootUnusable, StoreUnreachable
from indexmill.storage.urls import is_object_url, redact

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

T = TypeVar("T")

# Of each scheme, the variable with the address of a server other than the provider's own.
ENDPOINT_VARIABLES = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
PATIENCE_VARIABLE = "INDEXMILL_STORE_PATIENCE"
DEFAULT_PATIENCE_SECONDS = 300.0
BLOCK_BYTES = 8 << 20
URL_PATTERN = re.compile(r"^(s3|gs|az)://[^/?#]+(/[^?#]*)?$")

MISSING_BUCKET_CODES = frozenset({"NoSuchBucket", "ContainerNotFound"})
EXPIRED_CODES = frozenset({"ExpiredToken", "TokenRefreshRequired", "RequestTimeTooSkewed"})
REFUSAL_PATTERN = re.compile(r"status code: 40[13]|[Cc]redential")


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it: key, size in bytes, modification time (Unix seconds of the store's clock)."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class ObjectContent:
    """A small object that was read whole. `version` makes a later `swap` conditional on it."""

    data: bytes
    version: dict[str, str]


def get_endpoint(url: str) -> str:
    """Return the server that the environment names for a URL's scheme; empty for the provider's own."""
    return os.environ.get(ENDPOINT_VARIABLES[url.split("://", 1)[0]], "")


class ObjectClient:
    """Objects below one URL such as `s3://bucket/prefix`. Keys are relative to it, with slashes.

    Credentials and endpoint come from the environment, by the names that each provider's own tools use
    (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …).
    They are never stored or logged.

    Args:
        url: The bucket and the prefix.
        patience_seconds: How long a request is repeated while the store does not answer; None means
            INDEXMILL_STORE_PATIENCE, or 300 s where that is not set.

    Raises:
        InputError: when `url` is none of these.
    """

    def __init__(self, url: str, *, patience_seconds: float | None = None) -> None:
        import obstore.store  # 0.03 s, but most roots are folders

        if not URL_PATTERN.match(url):
            raise InputError(
                "this is not the URL of an object store",
                where="--root",
                expected="s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
                got=redact(url),
                next_step="credentials and endpoint belong in the environment, not in the URL",
            )
        self.url = url.rstrip("/")
        self._patience = (
            float(os.environ.get(PATIENCE_VARIABLE, DEFAULT_PATIENCE_SECONDS)) if patience_seconds is None else patience_seconds
        )
        retries: RetryConfig = {
            "max_retries": 10_000,
            "retry_timeout": timedelta(seconds=self._patience),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
        }
        with self._translate(""):
            self._store = obstore.store.from_url(self.url, client_options=build_client_options(self.url), retry_config=retries)

    def read(self, key: str) -> ObjectContent | None:
        """Read a small object; None when it does not exist."""
        import obstore

        with self._translate(key):
            try:
                result = obstore.get(self._store, key)
                return ObjectContent(bytes(result.bytes()), _get_version(cast("dict[str, Any]", result.meta)))
            except FileNotFoundError as error:
                self._check_bucket(error, key)
                return None

    def create(self, key: str, data: bytes) -> dict[str, str] | None:
        """Create an object; return its version, or None when there is one already."""
        return self._put_if(key, data, "create")

    def swap(self, key: str, data: bytes, version: dict[str, str]) -> dict[str, str] | None:
        """Replace an object that still has `version`; return the new version, or None when it has another one."""
        return self._put_if(key, data, version)

    def put(self, key: str, data: bytes) -> None:
        """Write a small object, whether it exists or not."""
        import obstore

        with self._translate(key):
            obstore.put(self._store, key, data, attributes={"sha256": hashlib.sha256(data).hexdigest()})

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file, in parts when it is large. Its SHA-256 goes with it and is compared on every download."""
        import obstore

        with self._translate(key):
            obstore.put(self._store, key, path, attributes={"sha256": file_digest(path)}, chunk_size=BLOCK_BYTES, max_concurrency=4)

    def fetch(self, key: str, target: Path) -> bool:
        """Download an object into the new file `target`; return whether the object exists.

        Raises:
            DamagedFile: when the content differs from the SHA-256 that was uploaded with it.
            StoreUnreachable: when the store does not answer for the time of the client's patience.
        """
        # obstore repeats requests, but not an answer that was cut in the middle of its body.
        return self._retry(self._fetch_once, key, target)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List all objects below a prefix (a folder, without a slash at the end), a thousand per request."""
        import obstore

        with self._translate(prefix):
            for batch in obstore.list(self._store, prefix or None, chunk_size=1000):
                for entry in batch:
                    yield ObjectInfo(entry["path"], entry["size"], entry["last_modified"].timestamp())

    def info(self, key: str) -> ObjectInfo | None:
        """Describe one object; None when it does not exist."""
        import obstore

        with self._translate(key):
            try:
                entry = obstore.head(self._store, key)
            except FileNotFoundError as error:
                self._check_bucket(error, key)
                return None
        return ObjectInfo(entry["path"], entry["size"], entry["last_modified"].timestamp())

    def delete(self, key: str) -> None:
        """Delete an object; one that does not exist is no error."""
        self._retry(self._delete_once, key)

    def check_conditional_writes(self) -> None:
        """Find out whether the store honors conditional writes, on which leases and publishing rest.

        Raises:
            RootUnusable: when it ignores a condition, as some S3 gateways do.
        """
        key = f"probe/{uuid.uuid4().hex}"
        version = self.create(key, b"1")
        try:
            if version is None or self.create(key, b"2") is not None:
                raise self._build_conditions_error("a second create of the same object succeeded")
            # Google Cloud Storage compares versions, the others ETags.
            if self.swap(key, b"3", {"e_tag": '"00000000000000000000000000000000"', "version": "1"}) is not None:
                raise self._build_conditions_error("a replacement with a wrong ETag succeeded")
            if self.swap(key, b"4", version) is None:
                raise self._build_conditions_error("a replacement with the right ETag was refused")
        finally:
            with suppress(IndexmillError):  # an object of one byte is left behind
                self.delete(key)

    def _put_if(self, key: str, data: bytes, mode: Any) -> dict[str, str] | None:
        # obstore does not repeat a conditional write. Repeating is safe here: the nonce tells whether one has succeeded.
        return self._retry(self._put_once, key, data, mode, uuid.uuid4().hex)

    def _put_once(self, key: str, data: bytes, mode: Any, nonce: str) -> dict[str, str] | None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        attributes = {"nonce": nonce, "sha256": hashlib.sha256(data).hexdigest()}
        with self._translate(key):
            try:
                return _get_version(cast("dict[str, Any]", obstore.put(self._store, key, data, attributes=attributes, mode=mode)))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                self._check_bucket(error, key)  # AWS answers 404, others 412, to a condition on an object that is gone
            try:
                result = obstore.get(self._store, key)
            except FileNotFoundError:
                return None
            return _get_version(cast("dict[str, Any]", result.meta)) if result.attributes.get("nonce") == nonce else None

    def _delete_once(self, key: str) -> None:
        import obstore

        with self._translate(key):
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError as error:
                self._check_bucket(error, key)

    def _retry(self, call: Callable[..., T], *arguments: Any) -> T:
        """Repeat a call while the store does not answer, for as long as the client is patient."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

        retrying = Retrying(
            retry=retry_if_exception_type(StoreUnreachable),
            stop=stop_after_delay(self._patience),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            reraise=True,
        )
        return retrying(call, *arguments)

    def _fetch_once(self, key: str, target: Path) -> bool:
        import obstore

        digest = hashlib.sha256()
        with self._translate(key):
            try:
                result = obstore.get(self._store, key)
            except FileNotFoundError as error:
                self._check_bucket(error, key)
                return False
            with target.open("wb") as file:
                for block in result.stream(min_chunk_size=BLOCK_BYTES):
                    digest.update(block)
                    file.write(block)
                if file.tell() != result.meta["size"]:
                    raise StoreUnreachable("the answer of the object store was cut short", where=f"{self.url}/{key}")
        expected = result.attributes.get("sha256")
        if expected is not None and expected != digest.hexdigest():
            raise DamagedFile(
                "an object is not what was uploaded",
                where=f"{self.url}/{key}",
                expected=f"SHA-256 {expected}",
                got=digest.hexdigest(),
                next_step="run the build again; it recreates missing and damaged files",
            )
        return True

    @contextmanager
    def _translate(self, key: str) -> Iterator[None]:
        """Translate obstore's errors. They are never chained: their text may name parts of a signed request."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise self._build_error(error, f"{self.url}/{key}".rstrip("/")) from None

    def _check_bucket(self, error: Exception, key: str) -> None:
        """Raise when it is not the object that is missing, but the bucket."""
        if find_error_code(str(error))[0] in MISSING_BUCKET_CODES:
            raise self._build_error(error, f"{self.url}/{key}") from None

    def _build_error(self, error: Exception, where: str) -> Exception:
        from obstore.exceptions import InvalidPathError, PermissionDeniedError, UnauthenticatedError, UnknownConfigurationKeyError

        text = str(error)
        code, reason = find_error_code(text)
        got = redact(reason)
        if code in MISSING_BUCKET_CODES or "bucket does not exist" in text:
            return RootUnusable("there is no such bucket", where=where, got=got, next_step="create it, or correct --root")
        if code in EXPIRED_CODES:
            next_step = "renew them and run the same command again; finished work is kept"
            return RootUnusable("the credentials of the object store have expired", where=where, got=got, next_step=next_step)
        if isinstance(error, UnknownConfigurationKeyError | InvalidPathError):
            return InputError("the object store cannot be configured", where=where, got=got)
        is_refusal = isinstance(error, PermissionDeniedError | UnauthenticatedError) or REFUSAL_PATTERN.search(text)
        if is_refusal:
            return RootUnusable(
                "the object store refuses the request",
                where=where,
                expected="credentials that may list, read, write and delete here",
                got=got,
                next_step=f"check the credentials in the environment ({CREDENTIALS[self.url.split('://', 1)[0]]})",
            )
        return StoreUnreachable(
            "the object store does not answer",
            where=where,
            expected=f"an answer within {self._patience:.0f} s ({PATIENCE_VARIABLE})",
            got=got,
            next_step="check the network and the endpoint, then run the same command again; finished work is kept",
        )

    def _build_conditions_error(self, got: str) -> RootUnusable:
        return RootUnusable(
            "this object store ignores conditional writes, so two builds could overwrite each other",
            where=self.url,
            expected="conditions on writes, as Amazon S3, Google Cloud Storage, Azure, MinIO and SeaweedFS have them",
            got=got,
            next_step="use another store, or a folder",
        )


def get_patience_seconds() -> float:
    """Return how long a request is repeated while the store does not answer."""
    return float(os.environ.get(PATIENCE_VARIABLE, DEFAULT_PATIENCE_SECONDS))


def build_client_options(url: str, *, silent_seconds: float = 60) -> ClientConfig:
    """Return obstore's options for a URL. A whole part may take minutes; a connection that brings nothing for a minute is dead."""
    options: ClientConfig = {"timeout": "30m", "read_timeout": f"{silent_seconds:g}s", "connect_timeout": "10s"}
    if url.startswith("http://") or (is_object_url(url) and get_endpoint(url).startswith("http://")):
        options["allow_http"] = True
    return options


def _get_version(meta: dict[str, Any]) -> dict[str, str]:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def find_error_code(text: str) -> tuple[str, str]:
    """Return the error code of a store's XML answer (empty when there is none) and the reason in one line."""
    code, message = (re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("Code", "Message"))
    if code:
        return code[1], f"{code[1]}: {message[1].strip()}" if message else code[1]
    reason = re.search(r"(HTTP error: [^\n]+|status code: \d+[^\n<:]*)", text)
    return "", reason[1].strip() if reason else text.splitlines()[0][:200]
