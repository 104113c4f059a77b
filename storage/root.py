"""The root: one directory that holds everything, and the only place where its paths are built.

<root>/catalog.duckdb                             views and tables for people; derived, may be deleted
<root>/cache/                                     what stages returned, by cache key
<root>/prefect/                                   the embedded Prefect's own files
<root>/tmp/                                       temporaries of running processes
<root>/sources/<dataset>/<revision>/              what was downloaded or generated
<root>/models/                                    encoders fetched from a hub
<root>/sources/_huggingface/                      the Hugging Face libraries' own files
<root>/datasets/<name>/<stage>/<digest>/          items.parquet, rejects.parquet, manifest.json
<root>/datasets/<name>/cache/                     what ingest and validate remember from night to night
<root>/image_checks/<policy>/part-*.parquet       what came of opening each image, by content
<root>/embeddings/<fingerprint>/part-*.parquet    the content-addressed embedding store
<root>/encoders/<model>/<device>.json             what a device has shown with an encoder: precision, batch size, rate
<root>/encoders/<model>/texts/                    an encoder of texts as ONNX graph and tokenizer; export.json last
<root>/indexes/<name>/trained|shards/             FAISS files by key, with their rows and records, shared between snapshots
<root>/indexes/<name>/evaluations/<digest>/       tables and sketches of an evaluation; <snapshot>/ in it: its report
<root>/indexes/<name>/evaluations/ground_truth-*.npz  exact neighbours of the queries, by what they were asked of
<root>/indexes/<name>/history/<snapshot>.json     metrics.json of every build, also of those whose snapshot is gone
<root>/indexes/<name>/snapshots/<snapshot>/       a published index, manifest.json last
<root>/indexes/<name>/current                     the pointer: a snapshot's id
<root>/studies/<name>/                            study.parquet, study.html, plots; study.json last
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from indexmill.storage.atomic import Scratch, remove_stale_temporaries
from indexmill.storage.digests import file_digest
from indexmill.storage.disk_errors import get_user_temp_folder
from indexmill.storage.errors import DamagedFile, InputError, RootUnusable
from indexmill.storage.locks import lease
from indexmill.storage.names import is_plain_name
from indexmill.storage.permissions import get_umask
from indexmill.storage.records import FileRef, FrozenModel, Record

INDEX_NAME_PATTERN = "[a-z0-9][a-z0-9-]{0,62}"  # what becomes a folder


class Root:
    """Paths and files under one root directory. Opening it creates the directory, its owner's alone (`storage.permissions`), and shows
    that it can be written.

    With `create=False` it must be there, and one that cannot be written can still be read: temporaries and the catalog, which are derived,
    then lie in the system's folder for temporaries.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path).expanduser().resolve()
        self._indexes: Path | None = None
        if not create and not self.path.is_dir():
            raise InputError(
                "there is no root here", where=str(self.path), got="no such directory", next_step="name it with --root or INDEXMILL_ROOT"
            )
        try:
            self.path.mkdir(mode=0o777 & ~get_umask(), parents=True, exist_ok=True)
            self._writable = os.access(self.path, os.W_OK | os.X_OK)
            if create and not self._writable:
                raise PermissionError("no write permission")
        except OSError as problem:
            raise RootUnusable(
                "the root cannot be written",
                where=str(self.path),
                expected="a directory that this user can create and write",
                got=problem.strerror or str(problem),
                next_step="choose another with --root or INDEXMILL_ROOT, or mend its permissions",
            ) from None

    @cached_property
    def scratch(self) -> Scratch:
        """This process's folder for temporaries, made when first needed."""
        return Scratch(self.tmp)

    def close(self) -> None:
        """Remove this process's temporaries."""
        if "scratch" in self.__dict__:
            self.scratch.close()
            del self.scratch

    @contextmanager
    def replace_atomically(self, target: Path) -> Iterator[Path]:
        """Yield a temporary path that becomes `target` atomically when the block ends well."""
        with self.scratch.replace_atomically(target) as temporary:
            yield temporary

    @contextmanager
    def hold_shared(self) -> Iterator[None]:
        """Work under this root beside others who do; waits while somebody has it alone."""
        with lease(self.path / "lease", holder="a build", wait=True, shared=True):
            yield

    @contextmanager
    def hold_exclusive(self, holder: str) -> Iterator[None]:
        """Work under this root while nobody else does. Raises BuildInProgress when somebody is at work."""
        with lease(self.path / "lease", holder=holder):
            yield

    def remove_stale_temporaries(self) -> int:
        """Remove what processes that are gone left in tmp/; the number of folders."""
        return remove_stale_temporaries(self.tmp)

    # paths

    @property
    def tmp(self) -> Path:
        return self.path / "tmp" if self._writable else get_user_temp_folder()

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def catalog(self) -> Path:
        return (self.path if self._writable else self.tmp) / "catalog.duckdb"

    def source(self, name: str, revision: str) -> Path:
        return self._join("sources", name, revision)

    @property
    def huggingface(self) -> Path:
        return self._join("sources", "_huggingface")

    def dataset(self, name: str, stage: str, digest: str) -> Path:
        return self._join("datasets", name, stage, digest[:16])

    def dataset_cache(self, name: str, what: str) -> Path:
        return self._join("datasets", name, "cache", f"{what}.parquet")

    def revision_file(self, name: str) -> Path:
        return self._join("datasets", name, "cache", "revision.txt")

    def last_revision(self, name: str) -> str | None:
        """The revision of the source that the last build of a pipeline saw; None before the first."""
        path = self.revision_file(name)
        return path.read_bytes().decode(errors="replace").strip() if path.exists() else None

    def image_checks(self, policy: str) -> Path:
        return self._join("image_checks", policy)

    def embeddings(self, fingerprint: str) -> Path:
        return self._join("embeddings", fingerprint)

    def encoder(self, model: str) -> Path:
        return self._join("encoders", model)

    def device_profile(self, model: str, device: str) -> Path:
        return self._join("encoders", model, f"{device[:16]}.json")

    def onnx_export(self, model: str) -> Path:
        return self.encoder(model) / "texts"

    def index(self, name: str) -> Path:
        if not re.fullmatch(INDEX_NAME_PATTERN, name):
            raise InputError("this cannot be an index's name", where=repr(name), expected="a-z, 0-9 and dashes, at most 63 characters",
                             next_step="indexmill catalog lists the indexes")  # fmt: skip
        return (self._indexes or self.path / "indexes") / name

    def _join(self, *names: str) -> Path:
        """The path of these names, one below the other. Raises InputError for one that is none, so that nobody is led out of the root."""
        for name in names:
            if not is_plain_name(name):
                raise InputError("this cannot be the name of a file or folder", where=str(self.path), got=repr(name))
        return self.path.joinpath(*names)

    def with_index_dir(self, folder: Path) -> Root:
        """This root with its indexes in `folder`, a staging folder: what is built there goes with it, and no pipeline sees it."""
        other = Root(self.path)
        other._indexes, other.__dict__["scratch"] = folder, self.scratch
        return other

    def study(self, name: str) -> Path:
        return self._join("studies", name)

    def trained_path(self, name: str, digest: str, suffix: str) -> Path:
        return self.index(name) / "trained" / self._join(f"{digest[:32]}.{suffix}").name

    def shard_path(self, name: str, key: str, suffix: str) -> Path:
        return self.index(name) / "shards" / self._join(f"{key[:32]}.{suffix}").name

    # files and records

    def make_ref(self, path: Path, *, digest: bool = True) -> FileRef:
        """The reference of a finished file. Without `digest` its size is vouched for, and by its pages' checksums what is in it."""
        return FileRef(
            path=path.relative_to(self.path).as_posix(),
            size=path.stat().st_size,
            sha256=file_digest(path) if digest else None,
        )

    def file(self, ref: FileRef) -> Path:
        return self.path / ref.path

    def write_record(self, path: Path, record: FrozenModel) -> None:
        """Write a record or manifest as indented JSON, atomically."""
        self.scratch.write_text(path, record.model_dump_json(indent=2) + "\n")

    def find_invalid_files(self, record: Record, *, thorough: bool = False) -> list[str]:
        """Why a remembered record cannot be believed: each file that is gone or has another size (thorough: or another SHA-256)."""
        return [problem for ref in record.files if (problem := find_file_error(self.file(ref), ref, digest=thorough))]

    def verify_file(self, ref: FileRef) -> Path:
        """The path of a file whose size and SHA-256 are as its reference says, else DamagedFile."""
        return verify_file(self.file(ref), ref)


def find_file_error(path: Path, ref: FileRef, *, digest: bool) -> str:
    """What is wrong with a file's size (and SHA-256, or where the reference has none the checksums in it); empty when nothing is."""
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path} is gone"
    if size != ref.size:
        return f"{path} has {size} bytes, not {ref.size}"
    if digest and ref.sha256 is not None and (got := file_digest(path)) != ref.sha256:
        return f"{path} has SHA-256 {got}, not {ref.sha256}"
    if digest and ref.sha256 is None and path.suffix == ".parquet":
        from indexmill.storage.parquet import find_parquet_error  # slow to import, and most commands read no table

        return find_parquet_error(path, thorough=True)
    return ""


def verify_file(path: Path, ref: FileRef) -> Path:
    """`path` once its size and SHA-256 are found to be those of `ref`, else DamagedFile."""
    if problem := find_file_error(path, ref, digest=True):
        raise DamagedFile(
            "a file is not what its record says",
            where=str(path),
            expected=f"{ref.size} bytes, SHA-256 {ref.sha256}",
            got=problem,
            next_step="run the build again: it makes anew what is damaged or gone",
        )
    return path
