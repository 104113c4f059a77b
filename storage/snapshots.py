"""Snapshots: immutable folders with a manifest, and the pointer that says which one is live."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from indexmill.storage.atomic import link
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.manifests import NEWEST_SCHEMA_VERSION, OLDEST_SCHEMA_VERSION, Manifest
from indexmill.storage.names import is_plain_name
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root, verify_file


class Snapshots:
    """The snapshots of one index."""

    def __init__(self, root: Root, name: str) -> None:
        self.root, self.name = root, name
        self.folder = root.index(name) / "snapshots"
        self.pointer = root.index(name) / "current"

    def get_path(self, snapshot_id: str) -> Path:
        """A snapshot's folder. Raises InputError for what cannot be the name of one."""
        if not is_plain_name(snapshot_id):
            raise self._build_unknown_error(snapshot_id)
        return self.folder / snapshot_id

    def list_ids(self) -> list[str]:
        """Whole snapshots, oldest first: those whose manifest is there, since it is written last."""
        return sorted(path.parent.name for path in self.folder.glob("[0-9]*-*/manifest.json"))

    def read_pointer(self) -> str | None:
        """What the pointer says, be it there or not; None before the first is published."""
        try:
            return self.pointer.read_bytes().decode(errors="replace").strip()
        except FileNotFoundError:
            return None

    def get_live_id(self) -> str | None:
        """The live snapshot's id; None before the first is published, or when the pointer points at nothing whole."""
        snapshot_id = self.read_pointer()
        return snapshot_id if snapshot_id in self.list_ids() else None

    def read_manifests(self) -> Iterator[Manifest]:
        """The manifests of all snapshots, oldest first, but of those that retention removes meanwhile."""
        for snapshot_id in self.list_ids():
            with suppress(FileNotFoundError):
                yield self._read_manifest(snapshot_id)

    def read_manifest(self, snapshot_id: str | None = None) -> Manifest:
        """The manifest of a snapshot, of the live one by default."""
        snapshot_id = snapshot_id or self.get_live_id()
        if snapshot_id is None or snapshot_id not in self.list_ids():
            raise self._build_unknown_error(snapshot_id)
        return self._read_manifest(snapshot_id)

    def _build_unknown_error(self, snapshot_id: str | None) -> InputError:
        return InputError(
            f"index {self.name} has no snapshot {snapshot_id}" if snapshot_id else f"index {self.name} has not been published",
            where=str(self.folder),
            got="snapshots there: " + (", ".join(self.list_ids()) or "none"),
            next_step=f"indexmill build {self.name}",
        )

    def _read_manifest(self, snapshot_id: str) -> Manifest:
        path = self.get_path(snapshot_id) / "manifest.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values["schema_version"]
            if not isinstance(version, int):
                raise TypeError(f"schema_version {version!r}")
            if not OLDEST_SCHEMA_VERSION <= version <= NEWEST_SCHEMA_VERSION:
                raise _build_version_error(path, version)
            whole = values["manifest_sha256"] == compute_manifest_sha256(values) and values["snapshot_id"] == snapshot_id
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as problem:
            raise _build_damaged_error(path, f"{type(problem).__name__}: {problem}") from None
        if not whole:
            raise _build_damaged_error(
                path, f"a seal or an id that does not fit: snapshot {values['snapshot_id']}, seal {values['manifest_sha256']}"
            )
        try:
            return Manifest.model_validate(values, extra="ignore")  # what a later Indexmill has added within the version
        except ValidationError as problem:
            raise _build_unreadable_error(path, version, problem) from None

    def read_live_manifest(self) -> Manifest | None:
        """The manifest of the live snapshot; None before the first is published."""
        return self.read_manifest() if self.get_live_id() else None

    def assign_id(self, content: str) -> str:
        """The id for new content: the existing snapshot with the same content, else one number on. Never a date."""
        for snapshot_id in self.list_ids():
            if snapshot_id.endswith("-" + content[:10]):
                return snapshot_id
        numbers = [int(snapshot_id.split("-")[0]) for snapshot_id in self.list_ids()]
        return f"{max(numbers, default=0) + 1:05d}-{content[:10]}"

    def assemble(self, manifest: Manifest, sources: dict[str, FileRef]) -> None:
        """Put a snapshot's files into its folder (by hard link where possible), the manifest last.

        sources: name in the snapshot -> the file that it is. Each is checked by digest before it is taken.
        """
        folder = self.get_path(manifest.snapshot_id)
        for name, ref in sources.items():
            link(self.root.verify_file(ref), folder / name, self.root.scratch)
        values = json.loads(manifest.model_dump_json())
        self.root.write_record(folder / "manifest.json", manifest.model_copy(update={"manifest_sha256": compute_manifest_sha256(values)}))

    def publish(self, snapshot_id: str) -> None:
        """Point `live_id` at a whole snapshot: one atomic rename."""
        self.root.scratch.write_text(self.pointer, snapshot_id + "\n")

    def verify(self, manifest: Manifest) -> None:
        """Check every file of a snapshot by size and SHA-256; DamagedFile names the first that differs."""
        for ref in manifest.files:
            verify_file(self.get_path(manifest.snapshot_id) / ref.path, ref)


def compute_manifest_sha256(values: dict[str, Any]) -> str:
    """SHA-256 of a manifest's values but the seal itself: it tells damage to the manifest, as digests in it tell damage to files."""
    return json_digest({name: value for name, value in values.items() if name != "manifest_sha256"})


def _build_version_error(path: Path, version: int) -> InputError:
    newer = version > NEWEST_SCHEMA_VERSION
    return InputError(
        f"this snapshot was written by {'a newer' if newer else 'an older'} Indexmill than this one can read",
        where=str(path),
        expected=f"schema_version {NEWEST_SCHEMA_VERSION}"
        if OLDEST_SCHEMA_VERSION == NEWEST_SCHEMA_VERSION
        else f"schema_version {OLDEST_SCHEMA_VERSION} to {NEWEST_SCHEMA_VERSION}",
        got=f"schema_version {version}",
        next_step="install the newer Indexmill here, or build into another root" if newer else "build the index anew with this one",
    )


def _build_unreadable_error(path: Path, version: int, problem: ValidationError) -> InputError:
    first = problem.errors()[0]
    return InputError(
        "this manifest cannot be read, though it is as it was written",
        where=f"{path}, {'.'.join(map(str, first['loc']))}",
        expected=first["msg"],
        got=f"schema_version {version}; {str(first['input'])[:100]}",
        next_step="use the version of Indexmill that wrote it, or remove the snapshot's folder",
    )


def _build_damaged_error(path: Path, got: str) -> DamagedFile:
    return DamagedFile(
        "a manifest is not what was written",
        where=str(path),
        expected="the manifest of this snapshot, with its seal",
        got=got,
        next_step="remove the snapshot's folder; if it is the live one, the next build makes it anew",
    )
