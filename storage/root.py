"""The root: one directory, or one prefix in an object store, that holds everything. All paths below it are built here.

<root>/catalog.duckdb                             the catalog; derived, may be deleted
<root>/cache/                                     stage records by cache key
<root>/prefect/                                   files of the embedded Prefect server
<root>/tmp/                                       temporaries of running processes
<root>/jobs/<key>/                                what a driver and its workers exchange; removed when the work is done
<root>/sources/<dataset>/<revision>/              downloaded or generated source files
<root>/sources/remote-<dataset>/                  copies of images and tables that are behind URLs or in a database
<root>/sources/<kind>-listings/<digest>/          the items of each tar shard or table with images; derived, may be deleted
<root>/sources/_huggingface/                      files of the Hugging Face libraries
<root>/models/                                    encoders downloaded from a hub
<root>/datasets/<name>/<stage>/<digest>/          items.parquet, rejects.parquet, manifest.json
<root>/datasets/<name>/cache/                     what ingest and validate cache between builds
<root>/image_checks/<policy>/part-*.parquet       results of image checks by content
<root>/embeddings/<fingerprint>/part-*.parquet    the embedding store
<root>/embeddings/<fingerprint>/keys-*.parquet    the contents of each part; derived, may be deleted
<root>/encoders/<model>/<device>.json             device profile of an encoder: precision, batch size, rate
<root>/encoders/<model>/texts/                    a text encoder as ONNX graph and tokenizer; export.json last
<root>/encoders/<model>/images/                   an image encoder as ONNX graph; export.json last
<root>/indexes/<name>/trained|shards/             FAISS files by key, with rows and records; snapshots share them
<root>/indexes/<name>/evaluations/<digest>/       tables and report data of an evaluation; <snapshot>/ in it: its report
<root>/indexes/<name>/evaluations/**/ground_truth-*.npz  exact nearest neighbors of the queries, and of those for tuning
<root>/indexes/<name>/history/<snapshot>.json     metrics.json of every build, even after its snapshot is removed
<root>/indexes/<name>/snapshots/<snapshot>/       a snapshot, manifest.json last
<root>/indexes/<name>/exports/<key>/export.json   an export of the pipeline, and how it went last
<root>/indexes/<name>/current                     the pointer: the live snapshot's id
<root>/indexes/<name>/withdrawn/<snapshot>        marks a snapshot that a rollback has replaced
<root>/studies/<name>/                            study.parquet, study.html, plots; study.json last
"""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from indexmill.storage.atomic import Scratch, remove_stale_temporaries
from indexmill.storage.digests import file_digest
from indexmill.storage.disk_errors import get_user_temp_folder
from indexmill.storage.errors import DamagedFile, InputError, RootUnusable
from indexmill.storage.names import is_plain_name
from indexmill.storage.object_store import ObjectStore, get_cache_folder
from indexmill.storage.permissions import get_umask
from indexmill.storage.records import FileRef, FrozenModel, Modality, Record
from indexmill.storage.store import FolderStore, Store
from indexmill.storage.urls import is_object_url

INDEX_NAME_PATTERN = "[a-z0-9][a-z0-9-]{0,62}"  # an index name is a folder name


class Root:
    """Paths and files under one root.

    Paths are always local. For a root in an object store they lie in this machine's copy of it (`storage.object_store`),
    so `fetch` a file before reading it, and create files with `commit`, `replace_atomically` or `write_record`.

    Args:
        location: The directory, or the URL of a prefix: s3://BUCKET/PREFIX, gs://… or az://….
        create: Create the directory (readable by its owner only, see `storage.permissions`) and require that it is
            writable. With False it must exist, and may be read-only: temporaries and the catalog then go to the
            system's temporary directory.

    Raises:
        InputError: with create=False, when the directory does not exist, or there is nothing below the URL.
        RootUnusable: when the directory or the object store cannot be used.
        StoreUnreachable: when the object store does not answer.
    """

    def __init__(self, location: str | Path, *, create: bool = True) -> None:
        is_remote = is_object_url(str(location))
        self.path = get_root_folder(location)
        self._scratch: Scratch | None = None
        self._index_dir = self.path / "indexes"
        if not create and not is_remote and not self.path.is_dir():
            raise _build_missing_error(str(self.path), "no such directory")
        try:
            self.path.mkdir(mode=0o777 & ~get_umask(), parents=True, exist_ok=True)
            self._is_writable = os.access(self.path, os.W_OK | os.X_OK)
            if (create or is_remote) and not self._is_writable:
                raise PermissionError("no write permission")
        except OSError as error:
            raise RootUnusable(
                "the root cannot be written",
                where=str(self.path),
                expected="a directory that this user can create and write",
                got=error.strerror or str(error),
                next_step="choose another with --root or INDEXMILL_ROOT, or fix its permissions",
            ) from None
        self.store: Store = ObjectStore(str(location), self.path, writable=create) if is_remote else FolderStore(self.path)
        if is_remote and not create and not self.list_files(self.path, "**"):
            raise _build_missing_error(self.store.location, "no object below this URL")

    def __str__(self) -> str:
        """The directory or the URL."""
        return self.location

    @property
    def location(self) -> str:
        """What another process passes to `Root` to open this root."""
        return self.store.location

    @property
    def scratch(self) -> Scratch:
        """This process's folder for temporaries, created on first use."""
        if self._scratch is None:
            self._scratch = Scratch(self.tmp, self.store)
        return self._scratch

    def close(self) -> None:
        """Remove this process's temporaries."""
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    @contextmanager
    def replace_atomically(self, target: Path) -> Iterator[Path]:
        """Yield a temporary path that replaces `target` atomically when the block ends without an error."""
        with self.scratch.replace_atomically(target) as temporary:
            yield temporary

    @contextmanager
    def create_atomically(self, target: Path) -> Iterator[Path]:
        """Yield a temporary path that becomes `target` when the block ends without an error, unless `target` exists then."""
        with self.scratch.create_atomically(target) as temporary:
            yield temporary

    def hold_shared(self) -> AbstractContextManager[None]:
        """Lock the root together with other builds. Waits while a process holds it exclusively."""
        return self.store.lease(self.path / "lease", holder="a build", wait=True, shared=True)

    def hold_exclusive(self, holder: str) -> AbstractContextManager[None]:
        """Lock the root for this process alone. Raises BuildInProgress when another process holds it."""
        return self.store.lease(self.path / "lease", holder=holder)

    def lease_index(self, name: str, holder: str) -> AbstractContextManager[None]:
        """Keep other builds of an index out. Raises BuildInProgress when another process holds the lease.

        Args:
            name: The index.
            holder: What works on it, for the error message of the others: `build-index`.
        """
        return self.store.lease(self.index(name) / "lease", holder=f"{holder} of {name}")

    def remove_stale_temporaries(self) -> int:
        """Remove the temporaries of processes that have ended and return the number of folders removed."""
        return remove_stale_temporaries(self.tmp)

    # paths

    @property
    def tmp(self) -> Path:
        """The folder for temporaries."""
        return self.path / "tmp" if self._is_writable else get_user_temp_folder()

    @property
    def cache(self) -> Path:
        """The folder of stage records."""
        return self.path / "cache"

    @property
    def catalog(self) -> Path:
        """The catalog's file."""
        return (self.path if self._is_writable else self.tmp) / "catalog.duckdb"

    def jobs(self, key: str) -> Path:
        """The folder of the files that a driver and its workers exchange for one piece of work."""
        return self._join("jobs", key)

    def refresh_jobs(self) -> None:
        """See what workers have written for this driver."""
        self.store.refresh(self.path / "jobs")

    def remove_jobs(self, key: str) -> None:
        """Remove that folder, if it exists."""
        for path in self.list_files(self.jobs(key), "**"):
            self.remove(path)
        shutil.rmtree(self.jobs(key), ignore_errors=True)

    def source(self, name: str, revision: str) -> Path:
        """The folder of a source's files at one revision."""
        return self._join("sources", name, revision)

    @property
    def huggingface(self) -> Path:
        """The folder of the Hugging Face libraries."""
        return self._join("sources", "_huggingface")

    def dataset(self, name: str, stage: str, digest: str) -> Path:
        """The folder of one stage's tables."""
        return self._join("datasets", name, stage, digest[:16])

    def dataset_cache(self, name: str, table: str) -> Path:
        """A table that ingest or validate caches between builds."""
        return self._join("datasets", name, "cache", f"{table}.parquet")

    def revision_file(self, name: str) -> Path:
        """The file with the source's revision at the last build."""
        return self._join("datasets", name, "cache", "revision.txt")

    def read_last_revision(self, name: str) -> str | None:
        """Read the source's revision at a pipeline's last build; None before the first."""
        content = self.store.read(self.revision_file(name))
        return content.decode(errors="replace").strip() if content is not None else None

    def image_checks(self, policy: str) -> Path:
        """The folder of image checks under one policy."""
        return self._join("image_checks", policy)

    def embeddings(self, fingerprint: str) -> Path:
        """The folder of one encoder's embedding store."""
        return self._join("embeddings", fingerprint)

    def encoder(self, model: str) -> Path:
        """The folder of an encoder's device profiles and ONNX exports."""
        return self._join("encoders", model)

    def device_profile(self, model: str, device: str) -> Path:
        """The file of an encoder's profile on one device."""
        return self._join("encoders", model, f"{device[:16]}.json")

    def onnx_export(self, model: str, modality: Modality) -> Path:
        """The folder of an encoder's ONNX export for one modality."""
        return self.encoder(model) / f"{modality}s"

    def index(self, name: str) -> Path:
        """The folder of an index. Raises InputError when `name` is not a valid index name."""
        if not re.fullmatch(INDEX_NAME_PATTERN, name):
            raise InputError(
                "this is not a valid index name",
                where=repr(name),
                expected="a-z, 0-9 and dashes, at most 63 characters",
                next_step=f"run `indexmill catalog --root {self.path}` to list the indexes",
            )
        return self._index_dir / name

    def list_indexes(self) -> list[str]:
        """List the names of the indexes under the root, published or not."""
        return [name for name in self.list_folders(self._index_dir) if re.fullmatch(INDEX_NAME_PATTERN, name)]

    def with_index_dir(self, folder: Path) -> Root:
        """Return this root with its indexes in `folder`, so that no pipeline sees what is built there.

        They share `scratch`.
        """
        other = copy.copy(self)
        other._index_dir, other._scratch = folder, self.scratch
        return other

    def for_job(self) -> Root:
        """Return this root for one job of a worker, which keeps it open for the next ones: with temporaries of its own."""
        other = copy.copy(self)
        other.store, other._scratch = self.store.for_job(), None
        return other

    def study(self, name: str) -> Path:
        """The folder of a study."""
        return self._join("studies", name)

    def trained_path(self, name: str, digest: str, suffix: str) -> Path:
        """A file of a trained index."""
        return self.index(name) / "trained" / self._join(f"{digest[:32]}.{suffix}").name

    def shard_path(self, name: str, key: str, suffix: str) -> Path:
        """A file of a shard."""
        return self.index(name) / "shards" / self._join(f"{key[:32]}.{suffix}").name

    def _join(self, *names: str) -> Path:
        """Join plain names to the root's path. Raises InputError for a name that could lead out of the root."""
        for name in names:
            if not is_plain_name(name):
                raise InputError("this is not a valid file name", where=str(self.path), got=repr(name))
        return self.path.joinpath(*names)

    # files and records

    def commit(self, temporary: Path, target: Path) -> None:
        """Make a finished temporary file durable under its final name, atomically. Raises Stopped as `atomic.commit` does."""
        self.store.commit(temporary, target)

    def fetch(self, path: Path) -> Path:
        """Make a file's content available at its path, if the root has it, and return the path."""
        return self.store.fetch(path)

    def exists(self, path: Path) -> bool:
        """Whether the root has this file."""
        return self.store.info(path) is not None

    def remove(self, path: Path) -> None:
        """Remove a file; one that does not exist is no error."""
        self.store.remove(path)

    def list_files(self, folder: Path, pattern: str) -> list[Path]:
        """List the files below `folder` that match a glob pattern, sorted; `**` means all. `fetch` before reading one."""
        return self.store.list_files(folder, pattern)

    def list_folders(self, folder: Path) -> list[str]:
        """List the names of the folders directly below `folder`, sorted."""
        return self.store.list_folders(folder)

    def make_ref(self, path: Path, *, digest: bool = True) -> FileRef:
        """Make the reference to a finished file.

        Without `digest`, only its size and its Parquet checksums can be verified.
        """
        return FileRef(
            path=path.relative_to(self.path).as_posix(),
            size=info.size if (info := self.store.info(path)) else path.stat().st_size,
            sha256=file_digest(path) if digest else None,
        )

    def file(self, ref: FileRef) -> Path:
        """Fetch a referenced file and return its path."""
        return self.fetch(self.path / ref.path)

    def write_record(self, path: Path, record: FrozenModel) -> None:
        """Write a record or manifest as indented JSON, atomically."""
        self.scratch.write_text(path, record.model_dump_json(indent=2) + "\n")

    def find_invalid_files(self, record: Record, *, thorough: bool = False) -> list[str]:
        """List a cached record's missing files and wrong sizes, with `thorough` also wrong SHA-256s."""
        return [error for ref in record.files if (error := self._find_error(ref, thorough=thorough))]

    def verify_file(self, ref: FileRef) -> Path:
        """Verify a file's size and SHA-256 and return its path. Raises DamagedFile when one differs.

        A damaged copy of an object is downloaded once more first.
        """
        if error := self._find_damage(ref):
            raise build_damage_error(self.path / ref.path, ref, error)
        return self.path / ref.path

    def _find_damage(self, ref: FileRef) -> str:
        path = self.file(ref)
        error = find_file_error(path, ref, digest=True)
        if error and self.store.drop_copy(path):
            error = find_file_error(self.fetch(path), ref, digest=True)
        return error

    def _find_error(self, ref: FileRef, *, thorough: bool) -> str:
        path = self.path / ref.path
        if not thorough:
            info = self.store.info(path)
            return describe_size_error(path, ref, info.size if info else None)
        try:
            return self._find_damage(ref)
        except DamagedFile as error:  # the object itself is not what was uploaded
            return error.got


def get_root_folder(location: str | Path) -> Path:
    """Return the folder on this machine that the files of a root are in, whether it exists or not."""
    folder = get_cache_folder(str(location)) if is_object_url(str(location)) else Path(location)
    return folder.expanduser().resolve()


def find_file_error(path: Path, ref: FileRef, *, digest: bool) -> str:
    """Return how a file differs from its reference; empty when it does not.

    Args:
        path: The file.
        ref: Its reference.
        digest: Also compare the SHA-256, or verify the checksums of a Parquet file whose reference has none.
    """
    try:
        size = path.stat().st_size
    except OSError:
        size = None
    if error := describe_size_error(path, ref, size):
        return error
    if digest and ref.sha256 is not None and (got := file_digest(path)) != ref.sha256:
        return f"{path} has SHA-256 {got}, not {ref.sha256}"
    if digest and ref.sha256 is None and path.suffix == ".parquet":
        from indexmill.storage.parquet import find_parquet_error  # slow to import, and most commands read no table

        return find_parquet_error(path, thorough=True)
    return ""


def describe_size_error(path: Path, ref: FileRef, size: int | None) -> str:
    """Return how a size differs from the recorded one; empty when it does not. None stands for a missing file."""
    if size is None:
        return f"{path} is missing"
    return f"{path} has {size} bytes, not {ref.size}" if size != ref.size else ""


def verify_file(path: Path, ref: FileRef) -> Path:
    """Verify a file's size and SHA-256 and return its path. Raises DamagedFile when one differs."""
    if error := find_file_error(path, ref, digest=True):
        raise build_damage_error(path, ref, error)
    return path


def build_damage_error(path: Path, ref: FileRef, error: str) -> DamagedFile:
    """Build the error for a file that differs from its reference as `find_file_error` says."""
    return DamagedFile(
        "a file does not match its record",
        where=str(path),
        expected=f"{ref.size} bytes, SHA-256 {ref.sha256}",
        got=error,
        next_step="run the build again; it recreates missing and damaged files",
    )


def _build_missing_error(location: str, got: str) -> InputError:
    return InputError("the root does not exist", where=location, got=got, next_step="choose it with --root or INDEXMILL_ROOT")
