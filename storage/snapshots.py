"""Snapshots: immutable folders with a manifest, and the pointer to the live one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import EllipsisType
from typing import Any

from pydantic import ValidationError

from indexmill.storage.atomic import link
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.manifests import NEWEST_SCHEMA_VERSION, OLDEST_SCHEMA_VERSION, Manifest
from indexmill.storage.names import is_plain_name
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root, build_damage_error, find_file_error
from indexmill.storage.store import build_swap_error


class Snapshots:
    """The snapshots of one index."""

    def __init__(self, root: Root, name: str) -> None:
        self.root, self.name = root, name
        self.folder = root.index(name) / "snapshots"
        self.pointer = root.index(name) / "current"
        self._withdrawn = root.index(name) / "withdrawn"

    def get_path(self, snapshot_id: str) -> Path:
        """Return a snapshot's folder, whether it exists or not.

        Raises InputError when the id is not a plain file name.
        """
        if not is_plain_name(snapshot_id):
            raise self._build_unknown_error(snapshot_id)
        return self.folder / snapshot_id

    def list_ids(self) -> list[str]:
        """List the complete snapshots, oldest first.

        A snapshot is complete once it has a manifest, which is written last.
        """
        return sorted(path.parent.name for path in self.root.list_files(self.folder, "[0-9]*-*/manifest.json"))

    def read_pointer(self) -> str | None:
        """Return the id in the pointer, whether that snapshot exists or not; None before the first is published."""
        return _parse_pointer(self.root.store.read(self.pointer))

    def get_live_id(self) -> str | None:
        """Return the live snapshot's id; None before the first is published or when it is incomplete."""
        snapshot_id = self.read_pointer()
        if snapshot_id is None or snapshot_id in self.list_ids():
            return snapshot_id
        self.root.store.refresh(self.root.index(self.name))  # another machine may have published it
        return snapshot_id if snapshot_id in self.list_ids() else None

    def read_manifests(self) -> Iterator[Manifest]:
        """Yield the manifests of all snapshots, oldest first, except those that retention removes in the meantime."""
        for snapshot_id in self.list_ids():
            with suppress(FileNotFoundError):
                yield self._read_manifest(snapshot_id)

    def read_manifest(self, snapshot_id: str | None = None) -> Manifest:
        """Read the manifest of a snapshot, by default of the live one.

        Raises:
            InputError: when there is no such snapshot, or its schema_version cannot be read.
            DamagedFile: when the manifest was changed after it was written.
        """
        snapshot_id = snapshot_id or self.get_live_id()
        if snapshot_id is None or snapshot_id not in self.list_ids():
            raise self._build_unknown_error(snapshot_id)
        return self._read_manifest(snapshot_id)

    def read_live_manifest(self) -> Manifest | None:
        """Read the manifest of the live snapshot; None before the first is published."""
        return self.read_manifest() if self.get_live_id() else None

    def assign_id(self, content: str) -> str:
        """Return a new id, NUMBER-DIGEST; that of the live or the newest snapshot if it has this content digest.

        The newest may be that of a build that was killed before it was live, or refused. An older one was live before, and
        stays as it was published.
        """
        ids = self.list_ids()
        for snapshot_id in (self.get_live_id(), *ids[-1:]):
            if snapshot_id is not None and snapshot_id.endswith("-" + content[:10]):
                return snapshot_id
        numbers = [int(snapshot_id.split("-")[0]) for snapshot_id in ids]
        return f"{max(numbers, default=0) + 1:05d}-{content[:10]}"

    def assemble(self, manifest: Manifest, sources: dict[str, FileRef]) -> None:
        """Link a snapshot's files into its folder and write the manifest last.

        Args:
            manifest: The manifest; its manifest_sha256 is set here.
            sources: Name in the snapshot -> the pool file. Each is verified by digest before it is linked.
        """
        folder = self.get_path(manifest.snapshot_id)
        for name, ref in sources.items():
            link(self.root.verify_file(ref), folder / name, self.root.scratch)
        values = json.loads(manifest.model_dump_json())
        self.root.write_record(folder / "manifest.json", manifest.model_copy(update={"manifest_sha256": compute_manifest_sha256(values)}))

    def publish(self, snapshot_id: str, *, replacing: str | EllipsisType | None = ...) -> None:
        """Make a complete snapshot the live one, by one atomic replacement of the pointer.

        Args:
            snapshot_id: The snapshot.
            replacing: What `read_pointer` returned when the snapshot was compared with the live one; by default anything.

        Raises:
            BuildInProgress: when the pointer has changed since then.
        """
        content = self.root.store.read(self.pointer)
        if replacing is not ... and _parse_pointer(content) != replacing:
            raise build_swap_error(self.pointer, content)
        with self.root.scratch.staging() as folder:
            (folder / "current").write_text(snapshot_id + "\n", encoding="utf-8")
            self.root.store.swap(folder / "current", self.pointer, content)
        self.root.remove(self._withdrawn / snapshot_id)

    def withdraw(self, snapshot_id: str) -> None:
        """Note that a snapshot was live and must not be again, until it is published another time."""
        self.root.scratch.write_text(self._withdrawn / snapshot_id, "")

    def is_withdrawn(self, snapshot_id: str) -> bool:
        """Whether a snapshot was withdrawn."""
        return self.root.exists(self._withdrawn / snapshot_id)

    def file(self, manifest: Manifest, name: str) -> Path:
        """Fetch one file of a snapshot and return its path."""
        path = self.get_path(manifest.snapshot_id) / name
        if source := manifest.sources.get(name):
            self.root.store.fetch_link(self.root.path / source, path)
        return path

    def fetch(self, manifest: Manifest) -> Path:
        """Fetch all files of a snapshot and return its folder."""
        for ref in manifest.files:
            self.file(manifest, ref.path)
        return self.get_path(manifest.snapshot_id)

    def verify(self, manifest: Manifest) -> None:
        """Verify every file of a snapshot by size and SHA-256. Raises DamagedFile for the first that differs.

        Damaged copies of objects are downloaded once more.
        """
        for ref in manifest.files:
            path = self.file(manifest, ref.path)
            error = find_file_error(path, ref, digest=True)
            if error and self._drop_copy(manifest, ref):
                error = find_file_error(self.file(manifest, ref.path), ref, digest=True)
            if error:
                raise build_damage_error(path, ref, error)

    def drop_damaged_copies(self, manifest: Manifest) -> bool:
        """Remove this machine's damaged copies of a snapshot's files, for `fetch` to bring again; return whether there were any."""
        damaged = [ref for ref in manifest.files if find_file_error(self.file(manifest, ref.path), ref, digest=True)]
        return sum(self._drop_copy(manifest, ref) for ref in damaged) > 0

    def _drop_copy(self, manifest: Manifest, ref: FileRef) -> bool:
        if (source := manifest.sources.get(ref.path)) is None:
            return False
        store = self.root.store
        is_copy = store.drop_copy(self.get_path(manifest.snapshot_id) / ref.path)
        return store.drop_copy(self.root.path / source) and is_copy  # one file with two names

    def _read_manifest(self, snapshot_id: str) -> Manifest:
        path = self.root.fetch(self.get_path(snapshot_id) / "manifest.json")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["schema_version"]
            if not isinstance(version, int):
                raise TypeError(f"schema_version {version!r}")
            if not OLDEST_SCHEMA_VERSION <= version <= NEWEST_SCHEMA_VERSION:
                raise self._build_version_error(path, version)
            is_intact = values["manifest_sha256"] == compute_manifest_sha256(values) and values["snapshot_id"] == snapshot_id
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise _build_damaged_error(path, f"{type(error).__name__}: {error}") from None
        if not is_intact:
            raise _build_damaged_error(path, f"snapshot_id {values['snapshot_id']}, manifest_sha256 {values['manifest_sha256']}")
        try:
            return Manifest.model_validate(values, extra="ignore")  # a later Indexmill may add fields within the version
        except ValidationError as error:
            raise _build_invalid_error(path, version, error) from None

    def _build_unknown_error(self, snapshot_id: str | None) -> InputError:
        catalog_command = f"run `indexmill catalog --root {self.root}` to list all builds"
        ids = self.list_ids()
        if snapshot_id:
            return InputError(
                f"index {self.name} has no snapshot {snapshot_id}",
                where=str(self.folder),
                got="snapshots: " + (", ".join(ids) or "none"),
                next_step=f"run `indexmill snapshots {self.name} --root {self.root}` to list them",
            )
        build_command = f"run `indexmill build PIPELINE --root {self.root}` first, or choose another root"
        indexes = [name for name in self.root.list_indexes() if Snapshots(self.root, name).get_live_id()]
        return InputError(
            f"index {self.name} has not been published" + (", though it has snapshots" if ids else ""),
            where=str(self.root),
            got="published indexes: " + (", ".join(indexes) or "none"),
            next_step=catalog_command if indexes else build_command,
        )

    def _build_version_error(self, path: Path, version: int) -> InputError:
        newer = version > NEWEST_SCHEMA_VERSION
        versions = " to ".join(map(str, sorted({OLDEST_SCHEMA_VERSION, NEWEST_SCHEMA_VERSION})))
        return InputError(
            f"this snapshot was written by {'a newer' if newer else 'an older'} Indexmill, whose format this one cannot read",
            where=str(path),
            expected=f"schema_version {versions}",
            got=f"schema_version {version}",
            next_step="install the newer Indexmill, or choose another root with --root"
            if newer
            else f"choose another root with --root, or remove {self.folder.parent} and build the index again",
        )


def _parse_pointer(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="replace").strip()


def compute_manifest_sha256(values: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values except `manifest_sha256` itself."""
    return json_digest({name: value for name, value in values.items() if name != "manifest_sha256"})


def _build_invalid_error(path: Path, version: int, error: ValidationError) -> InputError:
    first = error.errors()[0]
    return InputError(
        "this manifest does not follow the schema, though it is undamaged",
        where=f"{path}, {'.'.join(map(str, first['loc']))}",
        expected=first["msg"],
        got=f"schema_version {version}; {str(first['input'])[:100]}",
        next_step="use the version of Indexmill that wrote it, or remove the snapshot's folder",
    )


def _build_damaged_error(path: Path, got: str) -> DamagedFile:
    return DamagedFile(
        "a manifest was changed after it was written",
        where=str(path),
        expected="matching snapshot_id and manifest_sha256",
        got=got,
        next_step="remove the snapshot's folder; if it is the live one, build again to recreate it",
    )
