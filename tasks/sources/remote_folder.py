"""A folder of images in a bucket: the source `folder` on s3://BUCKET/PREFIX, gs://… or az://….

The listing decides what has changed; an image is downloaded when its size, ETag or modification time is new. Labels,
captions and metadata files are read as in a folder on disk. A file is an image by the suffix of its name alone, since its
first bytes would have to be asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import cast

import pyarrow as pa

from indexmill.configs.datasets import FolderDatasetConfig
from indexmill.storage import parquet
from indexmill.storage.atomic import link_or_copy
from indexmill.storage.digests import rows_digest
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.storage.urls import STORE_SCHEMES, join_url
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.captions import CAPTION_SUFFIX, read_caption
from indexmill.tasks.sources.folder import METADATA_FILE_NAMES, FolderSource, MetadataRow, read_metadata_rows
from indexmill.tasks.sources.image_downloads import BATCH_URLS, ImageDownloads, RemoteImage
from indexmill.tasks.sources.image_files import FileEntry, is_image_name
from indexmill.tasks.sources.remote_files import RemoteFile
from indexmill.tasks.sources.web_client import WEB_RETRY

LISTING_SCHEMA = pa.schema({"path": pa.string(), "size": pa.int64(), "etag": pa.string(), "modified": pa.float64()})


@dataclass(frozen=True)
class RemoteEntry(FileEntry):
    """An object below the folder."""

    etag: str | None = None
    modified: float = 0.0


class RemoteFolderSource(FolderSource):
    """The images below a URL, with labels and captions as the config says.

    Raises:
        InputError: The URL has no listing, as those of web servers.
    """

    modality: Modality = "image"

    def __init__(self, config: FolderDatasetConfig, root: Root, retry_policy: RetryPolicy = WEB_RETRY) -> None:
        # Not FolderSource's constructor, which looks for a folder on disk.
        self._url, self._config, self._root = config.path.rstrip("/"), config, root
        if self._url.partition("://")[0].lower() not in STORE_SCHEMES:
            raise InputError(
                "a web server has no listing of its files",
                where="dataset.path",
                expected="a folder on disk, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
                got=config.path.partition("?")[0],
                next_step="list the images in a table with a column of URLs, and use source: csv, jsonl or parquet",
            )
        self.downloads = ImageDownloads(root, self._url, config.downloads, retry_policy=retry_policy)
        self._folder = self.image_root = self.downloads.folder
        self.skipped: Counter[str] = Counter()
        self.labeled = config.labels != "none"
        self._uses_metadata = "metadata" in (config.labels, config.captions)

    def compute_revision(self) -> str:
        """Return a digest of path, size, ETag and modification time of every object."""
        return rows_digest((entry.path, entry.size, entry.etag, entry.modified) for entry in self._walk())

    def items(self) -> Iterator[Item]:
        """Yield the images in path order. Caption files are downloaded first; they are small."""
        with self._root.scratch.staging() as folder:
            self._caption_folder = folder
            if self._config.captions == "text":
                self._fetch_captions()
            yield from super().items()

    def _walk(self) -> Iterator[RemoteEntry]:
        """Yield the objects in path order, which is not that of their keys. The listing is sorted on disk."""
        with self._root.scratch.staging() as staging:
            listing = staging / "listing.parquet"
            parquet.write_parquet(listing, LISTING_SCHEMA, self._list())
            sql = f"SELECT * FROM {parquet.scan_sql(listing)} ORDER BY string_split(path, '/')"
            with parquet.query(sql, temp_dir=staging) as batches:
                for batch in batches:
                    for row in batch.to_pylist():
                        is_hidden = any(part.startswith(".") for part in row["path"].split("/"))
                        yield RemoteEntry(
                            path=row["path"],
                            size=row["size"],
                            mtime_ns=int(row["modified"] * 1e9),
                            kind="hidden" if is_hidden else "file",
                            etag=row["etag"],
                            modified=row["modified"],
                        )

    def _list(self) -> Iterator[pa.RecordBatch]:
        prefix = self._url + "/"
        files = (file for file in self.downloads.files.list_files(prefix) if not file.url.endswith("/"))
        while batch := list(islice(files, parquet.BATCH_ROWS)):
            rows = [
                {"path": file.url.removeprefix(prefix), "size": file.size, "etag": file.etag, "modified": file.modified} for file in batch
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=LISTING_SCHEMA)

    def _is_image(self, path: str) -> bool:
        return is_image_name(path)

    def _read_metadata(self, temp_dir: Path) -> Iterator[MetadataRow]:
        folder = temp_dir / "metadata"
        folder.mkdir()
        for entry in self._walk():
            if PurePosixPath(entry.path).name in METADATA_FILE_NAMES:
                target = folder / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self.downloads.files.fetch(join_url(self._url, entry.path), target)
        yield from read_metadata_rows(folder, self._config, temp_dir)

    def _fetch_captions(self) -> None:
        captions = (entry for entry in self._walk() if entry.kind == "file" and entry.path.endswith(CAPTION_SUFFIX))
        while batch := list(islice(captions, BATCH_URLS)):
            copies = {entry.path: self._make_remote(entry) for entry in batch}
            failures = self.downloads.fetch_images(copies.values())
            for path, copy in copies.items():
                if failure := failures.get(copy.path):
                    raise SourceUnreachable("a caption cannot be downloaded", where=f"{self._url}/{path}", got=str(failure))
                target = self._caption_folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(self.downloads.folder / copy.path, target)

    def _read_caption(self, path: str) -> str | None:
        return read_caption(self._caption_folder / path)

    def _make_image_item(self, image: FileEntry, label: str | None, text: str | None) -> Item:
        remote = self._make_remote(cast("RemoteEntry", image))
        return Item(
            key=image.path,
            label=label,
            text=text,
            path=remote.path,
            size=image.size,
            mtime_ns=image.mtime_ns,
            url=remote.url,
            version=remote.version,
        )

    def _make_remote(self, entry: RemoteEntry) -> RemoteImage:
        url = join_url(self._url, entry.path)
        version = RemoteFile(url, entry.size, entry.etag, entry.modified).version
        return RemoteImage(url, self.downloads.locate(url, version), entry.mtime_ns, version)
