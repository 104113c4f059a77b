"""This machine's copies of the images of a remote data set: downloaded once, then read like any folder of images.

<root>/sources/<slug>/images/ab/<digest>.jpg   a copy, named by its URL and, where a listing shows it, its version
<root>/sources/<slug>/tables/<digest>.csv      the newest version of a table, named in the same way
<root>/sources/<slug>/responses.sqlite         for URLs without a listing: ETag, modification time, when it was last checked

A copy with a version in its name never changes, so what is here is not asked for again. The others are asked for again
by a conditional request once they are older than `recheck_days`. A killed build loses no finished download.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from indexmill.configs.datasets import DownloadsConfig
from indexmill.storage.digests import content_digest, unit_interval
from indexmill.storage.errors import InputError, SourceChanged, SourceUnreachable
from indexmill.storage.root import Root
from indexmill.storage.stopping import STOP_GRACE_SECONDS
from indexmill.storage.urls import WEB_SCHEMES, redact, split_any_url
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.downloads import make_slug
from indexmill.tasks.sources.image_files import is_image_name
from indexmill.tasks.sources.remote_files import FileMissing, FileTooLarge, InvalidUrl, RemoteFile, RemoteFiles
from indexmill.tasks.sources.response_cache import Response, ResponseCache
from indexmill.tasks.sources.web_client import WEB_RETRY, AddressGuard, FetchFailure, Validators, WebClient

R = TypeVar("R")

TABLE_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet", ".txt"})
MAX_CONCURRENT_DOWNLOADS = 32
BATCH_URLS = 8192
SECONDS_PER_DAY = 86_400


class RemoteImage(NamedTuple):
    """An image to have on this machine.

    Attributes:
        url: Where it is.
        path: Its copy, relative to the folder of images, as `ImageDownloads.locate` names it.
        modified_ns: The copy's modification time to set, for a file with a version.
        version: The version that a listing shows, and that the path depends on; None without a listing.
    """

    url: str
    path: str
    modified_ns: int | None = None
    version: str | None = None


class ImageDownloads:
    """Downloads the files of one data set, several at a time, and a few at a time from each host.

    Args:
        root: The root.
        location: The data set's location or name, which its folder is named after.
        config: Limits.
        trusted_url: A web address in the config; its host may have a private address.
        retry_policy: Attempts per file and waits.
    """

    def __init__(
        self, root: Root, location: str, config: DownloadsConfig, *, trusted_url: str | None = None, retry_policy: RetryPolicy = WEB_RETRY
    ) -> None:
        self._root, self._config = root, config
        self._slug = make_slug("remote", location)
        self.folder = root.source(self._slug, "images")
        self.files = RemoteFiles(retry_policy=retry_policy)
        self._guard = AddressGuard(allow_private=config.allow_private, trusted=_find_web_server(trusted_url or ""))
        self._retry_policy = retry_policy

    def locate(self, url: str, version: str | None = None) -> str:
        """Return where the copy of a URL is, relative to the folder of images."""
        name = _name_copy(url, version)
        return f"{name[:2]}/{name}"

    def fetch_file(self, file: RemoteFile) -> Path:
        """Return the copy of a table, after downloading it unless this version is here.

        Raises:
            SourceChanged: The file has another version now than in its listing.
            InputError, SourceUnreachable: As `RemoteFiles.fetch`.
        """
        folder, url_digest = self._root.source(self._slug, "tables"), content_digest(file.url.encode())
        target = folder / f"{url_digest}-{_name_copy(file.url, file.version)}"
        if file.version is None or not target.is_file():
            with self._root.replace_atomically(target) as temporary:
                if self.files.fetch(file.url, temporary).version != file.version:
                    raise SourceChanged("a table changed while it was read", where=redact(file.url), next_step="run the build again")
            for older in folder.glob(f"{url_digest}-*"):
                if older != target:
                    older.unlink(missing_ok=True)
        return target

    def check_space(self, needed_bytes: int) -> None:
        """Raise InputError if images of this size in all do not fit on the disk. Copies that are here count as downloaded."""
        free_bytes = shutil.disk_usage(self._root.path).free
        if needed_bytes > free_bytes:
            needed_bytes -= sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        if needed_bytes > free_bytes:
            raise InputError(
                "the images do not fit on this disk",
                where=str(self.folder),
                expected=f"{needed_bytes:,} bytes free",
                got=f"{free_bytes:,} bytes",
                next_step="free some, set dataset.limit, or use another --root",
            )

    def fetch_images(self, images: Iterable[RemoteImage]) -> dict[str, FetchFailure]:
        """Download the images of one batch that are not here. Returns the failures by the path of the copy."""
        missing = {image.path: image for image in images if not (self.folder / image.path).is_file()}
        failures: dict[str, FetchFailure] = {}
        with self._open_client() as client, self._open_responses() as responses:
            for image, result in self._run(partial(self._fetch_copy, client), list(missing.values())):
                if isinstance(result, FetchFailure):
                    failures[image.path] = result
                elif image.version is None:
                    responses.save(image.path, result)
            responses.commit()
        return failures

    def recheck(self, images: Iterable[RemoteImage]) -> int:
        """Ask again for the copies without a version that are older than `recheck_days`, and replace those that changed.

        The dates are spread, so that a data set that was downloaded in one night is not asked for in one night again. A
        server that does not answer changes nothing; a file that is gone loses its copy.

        Returns:
            How often a copy of this data set has changed, which makes a revision.
        """
        remaining = (image for image in images if image.version is None)
        with self._open_client() as client, self._open_responses() as responses:
            while batch := list(islice(remaining, BATCH_URLS)):
                known = {image: found for image in batch if (found := self._find_due(responses, image)) is not None}
                for image, result in self._run(partial(self._recheck_due, client, known), list(known)):
                    if isinstance(result, FetchFailure):
                        if result.reason != "unreachable":
                            (self.folder / image.path).unlink(missing_ok=True)
                            responses.forget(image.path)
                            responses.count_change()
                        continue
                    validators, has_changed = result
                    responses.save(image.path, validators)
                    if has_changed:
                        responses.count_change()
                responses.commit()
            return responses.changes

    def _find_due(self, responses: ResponseCache, image: RemoteImage) -> Validators | None:
        """Return what a server gave with a copy, if there is one and the server is to be asked again."""
        response = responses.get(image.path) or Response(Validators(), 0)
        age_days = (time.time() - response.checked) / SECONDS_PER_DAY
        is_due = age_days >= self._config.recheck_days * (0.5 + 0.5 * unit_interval(0, image.path))
        return response.validators if is_due and (self.folder / image.path).is_file() else None

    def _fetch_copy(self, client: WebClient, image: RemoteImage) -> Validators:
        with self._root.replace_atomically(self.folder / image.path) as temporary:
            validators = self._fetch(client, image.url, temporary, Validators(), image.version)
            if image.version is not None and image.modified_ns is not None:
                os.utime(temporary, ns=(image.modified_ns, image.modified_ns))
        return validators or Validators()

    def _recheck_due(self, client: WebClient, due: dict[RemoteImage, Validators], image: RemoteImage) -> tuple[Validators, bool]:
        """Return what the server gives with the file now, and whether its content has changed."""
        copy, known = self.folder / image.path, due[image]
        with self._root.scratch.staging() as staging:
            temporary = staging / copy.name
            found = self._fetch(client, image.url, temporary, known)
            has_changed = found is not None and not filecmp.cmp(temporary, copy, shallow=False)
            if has_changed:
                self._root.commit(temporary, copy)
        return found or known, has_changed

    def _fetch(self, client: WebClient, url: str, target: Path, known: Validators, version: str | None = None) -> Validators | None:
        """Download one file, which must have `version` if there is one. Returns None if it is unchanged. Raises FetchFailure."""
        if split_any_url(url).scheme in WEB_SCHEMES:
            return client.fetch(url, target, known)
        try:
            file = self.files.fetch_if_changed(url, target, known.etag, max_bytes=self._config.max_bytes)
        except FileMissing as error:
            raise FetchFailure("not_found", error.got) from None
        except InvalidUrl as error:
            raise FetchFailure("not_found", f"{error.what}: {error.got}") from None
        except FileTooLarge as error:
            raise FetchFailure("file_too_large", f"{error.got} (dataset.downloads.max_bytes)") from None
        except InputError as error:
            raise FetchFailure("access_denied", f"{error.what}: {error.got}") from None
        except SourceUnreachable as error:
            raise FetchFailure("unreachable", error.got) from None
        if version is not None and file is not None and file.version != version:
            raise FetchFailure("changed", "the object changed after it was listed; the next build lists it again")
        return Validators(file.etag) if file else None

    def _run(self, work: Callable[[RemoteImage], R], images: Sequence[RemoteImage]) -> Iterator[tuple[RemoteImage, R | FetchFailure]]:
        """Run a function on images in threads, on a few of each host at a time. Yields them as they finish."""
        waiting: dict[str, deque[RemoteImage]] = {}
        for image in images:
            waiting.setdefault(split_any_url(image.url).netloc.lower(), deque()).append(image)
        running: dict[Future[R], tuple[str, RemoteImage]] = {}
        per_host: Counter[str] = Counter()
        _ = self._root.scratch  # created here, not by several threads at once
        threads = ThreadPoolExecutor(MAX_CONCURRENT_DOWNLOADS, "download")
        try:
            while waiting or running:
                for host in list(waiting):
                    while waiting[host] and per_host[host] < self._config.per_host and len(running) < MAX_CONCURRENT_DOWNLOADS:
                        image = waiting[host].popleft()
                        running[threads.submit(work, image)] = host, image
                        per_host[host] += 1
                    if not waiting[host]:
                        del waiting[host]
                    if len(running) == MAX_CONCURRENT_DOWNLOADS:
                        break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    host, image = running.pop(future)
                    per_host[host] -= 1
                    try:
                        yield image, future.result()
                    except FetchFailure as failure:
                        yield image, failure
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            wait(running, timeout=STOP_GRACE_SECONDS)  # those under way may be kept; a server that is silent is left

    @contextmanager
    def _open_client(self) -> Iterator[WebClient]:
        client = WebClient(self._guard, self._config.max_bytes, self._retry_policy)
        try:
            yield client
        finally:
            client.close()

    def _open_responses(self) -> ResponseCache:
        return ResponseCache(self._root.source(self._slug, "responses.sqlite"))


def _find_web_server(url: str) -> list[tuple[str, int]]:
    """Return the host and the port of a web address; nothing for any other URL, and for a port that is none."""
    parts = split_any_url(url)
    with suppress(ValueError):
        if parts.hostname and parts.scheme in WEB_SCHEMES:
            return [(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))]
    return []


def _name_copy(url: str, version: str | None) -> str:
    """Return a file name: a digest, and the URL's suffix if it is that of an image or of a table."""
    identity = [url] if version is None else [url, version]
    suffix = PurePosixPath(split_any_url(url).path).suffix.lower()
    is_known = is_image_name(f"x{suffix}") or suffix in TABLE_SUFFIXES
    return hashlib.blake2b("\0".join(identity).encode(), digest_size=16).hexdigest() + (suffix if is_known else "")
