"""Where exports are written as files, and which exports an index has.

An export in files is a folder with `_export.json`, which describes it. A new one is written beside it and takes its place at
once. In an object store, the files of an export are in a folder of their own, and `_export.json` names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from indexmill.storage.atomic import Scratch, remove_stale_temporaries, replace_folder
from indexmill.storage.digests import json_digest
from indexmill.storage.disk_errors import DISK_FULL_ERRORS
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.records import FrozenModel, read_record
from indexmill.storage.root import Root
from indexmill.storage.store import FolderStore
from indexmill.storage.urls import is_object_url

DESCRIPTION_FILE = "_export.json"  # readers of Parquet folders skip names that begin with an underscore
RECORD_FILE = "export.json"


class ExportRecord(FrozenModel):
    """One export of a pipeline, and how its last run ended. A path in `to` is absolute."""

    format: str
    to: str
    table: str | None
    snapshot_id: str = ""  # the snapshot that was exported last; empty before the first
    error: str = ""  # why the last run failed; empty if it did not

    @property
    def key(self) -> str:
        """The digest of format and target."""
        return json_digest([self.format, self.to, self.table])[:16]


class Exports:
    """The exports that the pipeline of an index has, for `indexmill export NAME` to run them again."""

    def __init__(self, root: Root, name: str) -> None:
        self.root, self.name = root, name
        self.folder = root.index(name) / "exports"

    def list_records(self) -> list[ExportRecord]:
        """List them in the order of their keys."""
        paths = self.root.list_files(self.folder, f"*/{RECORD_FILE}")
        records = (read_record(self.root.fetch(path), ExportRecord) for path in paths)
        return [record for record in records if record is not None]

    def write_record(self, record: ExportRecord) -> None:
        """Write how an export went."""
        self.root.write_record(self._get_path(record.key), record)

    def keep_only(self, records: list[ExportRecord]) -> None:
        """Forget every export that is not among these, and record those that are new."""
        known, wanted = {record.key for record in self.list_records()}, {record.key for record in records}
        for key in known - wanted:
            self.root.remove(self._get_path(key))
        for record in records:
            if record.key not in known:
                self.write_record(record)

    def lease(self, key: str) -> AbstractContextManager[None]:
        """Keep others from writing this export. Raises BuildInProgress when another process does."""
        return self.root.store.lease(self.folder / key / "lease", holder=f"an export of {self.name}")

    def _get_path(self, key: str) -> Path:
        return self.folder / key / RECORD_FILE


class ExportFiles(Protocol):
    """A place for an export in files."""

    path: Path | None  # the folder, if it is on this machine

    def read_description(self) -> dict[str, Any] | None:
        """Read what is there now; None if nothing is."""

    def replace(self, description: dict[str, Any]) -> AbstractContextManager[Path]:
        """Yield an empty folder that takes the place of what is there when the block ends without an error."""


def open_export_files(location: str, root: Root) -> ExportFiles:
    """Open a directory or an object-store URL for an export in files."""
    return ExportPrefix(location, root) if is_object_url(location) else ExportFolder(Path(location))


class ExportFolder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self._target = path

    def read_description(self) -> dict[str, Any] | None:
        """Read what is there now; None if nothing is."""
        try:
            return _parse_description((self._target / DESCRIPTION_FILE).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def replace(self, description: dict[str, Any]) -> Iterator[Path]:
        """Yield an empty folder that takes the place of what is there when the block ends without an error.

        What an interrupted export left beside the folder is removed first.

        Raises:
            InputError: when there is something other than an export of this index in this format, or the folder cannot be written.
        """
        target = self._target
        _check_same_export(self.read_description(), description, str(target))
        if target.exists() and not (target.is_dir() and (self.read_description() is not None or not any(target.iterdir()))):
            raise InputError(
                "something other than an export is there, which must not be replaced",
                where=str(target),
                expected=f"no such directory, an empty one, or one with {DESCRIPTION_FILE}",
                next_step="choose another directory, or remove this one",
            )
        parent = target.parent / f".{target.name}.part"  # a rename works only within one file system
        scratch = self._open_scratch(parent)
        try:
            with scratch.staging() as staging:
                folder = staging / target.name
                folder.mkdir()
                yield folder
                (folder / DESCRIPTION_FILE).write_text(_format_description(description), encoding="utf-8")
                replace_folder(folder, target)
        finally:
            scratch.close()
            with suppress(OSError):  # another export is being written
                parent.rmdir()

    def _open_scratch(self, parent: Path) -> Scratch:
        """Make the folder for temporaries beside the target. A full disk raises OSError as it is."""
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(parent)
            return Scratch(parent, FolderStore(self._target.parent))
        except OSError as error:
            if error.errno in DISK_FULL_ERRORS:
                raise
            raise InputError(
                "the directory of the export cannot be written",
                where=str(self._target),
                expected="a directory that this user can create or write",
                got=error.strerror or str(error),
                next_step="choose another directory, or make this one writable",
            ) from None


class ExportPrefix:
    """A prefix in an object store, which has no rename: `_export.json` names the folder below it that holds the files.

    The folder of the export before stays for those who still read it; older ones are removed.
    """

    path: Path | None = None

    def __init__(self, url: str, root: Root) -> None:
        self._client, self._root = ObjectClient(url), root

    def read_description(self) -> dict[str, Any] | None:
        """Read what is there now; None if nothing is."""
        content = self._client.read(DESCRIPTION_FILE)
        return None if content is None else _parse_description(content.data)

    @contextmanager
    def replace(self, description: dict[str, Any]) -> Iterator[Path]:
        """Yield an empty folder on this machine, which is uploaded when the block ends without an error."""
        previous = self.read_description() or {}
        _check_same_export(previous, description, self._client.url)
        name = f"{description['format']}-{description['snapshot_id']}"
        with self._root.scratch.staging() as folder:
            yield folder
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                self._client.put_file(f"{name}/{path.relative_to(folder).as_posix()}", path)
        self._client.put(DESCRIPTION_FILE, _format_description(description | {"folder": name}).encode())
        for info in list(self._client.list()):
            folder_name, slash, _ = info.key.partition("/")
            if slash and folder_name.startswith(f"{description['format']}-") and folder_name not in (name, previous.get("folder")):
                self._client.delete(info.key)


def check_no_export_files(folder: Path) -> None:
    """Raise InputError when a folder holds an export in files, whose next run would replace it with all that is in it."""
    if (folder / DESCRIPTION_FILE).exists():
        raise InputError(
            "an export in files is there, which would replace the whole directory",
            where=str(folder),
            expected=f"a directory without {DESCRIPTION_FILE}",
            next_step="choose another directory, or remove this one",
        )


def _check_same_export(before: dict[str, Any] | None, description: dict[str, Any], where: str) -> None:
    """Raise InputError when the export that is there now is of another index, or in another format."""
    if not before:
        return
    if before.get("name") != description.get("name"):
        raise InputError(
            "the export of another index is there, which must not be replaced",
            where=where,
            expected=f"an export of {description.get('name')}",
            got=f"one of {before.get('name')}",
            next_step="choose another directory or URL",
        )
    if before["format"] != description["format"]:
        raise InputError(
            "an export in another format is there, which must not be replaced",
            where=where,
            expected=f"the format {description['format']}",
            got=str(before["format"]),
            next_step="choose another directory or URL, or remove what is there",
        )


def _format_description(description: dict[str, Any]) -> str:
    return json.dumps(description, indent=2) + "\n"


def _parse_description(content: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(content)
        return values if isinstance(values, dict) and {"format", "snapshot_id"} <= values.keys() else None
    except ValueError as error:
        raise DamagedFile("the description of an export cannot be read", where=DESCRIPTION_FILE, got=str(error)) from None
