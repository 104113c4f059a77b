"""Export a snapshot: find the target of a config, and write what it does not have yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from indexmill.configs.exports import ExportConfig
from indexmill.storage.exports import ExportRecord, Exports, check_no_export_files, open_export_files
from indexmill.storage.records import FrozenModel
from indexmill.storage.retention import hold_snapshot
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.exports.base import ExportTarget, translate_errors
from indexmill.tasks.exports.files import FilesTarget
from indexmill.tasks.exports.rows import open_rows
from indexmill.tasks.progress import track

FILE_FORMATS = ("parquet", "npy", "faiss", "hnswlib")


class ExportResult(FrozenModel):
    """How one export went, as `--json` prints it."""

    format: str
    to: str
    table: str | None
    snapshot_id: str
    state: str  # exported, unchanged or failed
    rows: int = 0
    written: int = 0
    removed: int = 0
    error: str = ""
    next_step: str = ""  # what to do about the error


def export_snapshot(root: Root, name: str, config: ExportConfig, snapshot_id: str | None = None) -> ExportResult:
    """Make a target hold a snapshot, by default the live one. One that holds it already is left alone.

    Args:
        root: The root of the index.
        name: The index.
        config: Format and target.
        snapshot_id: The snapshot; None means the live one.

    Raises:
        InputError: there is no such snapshot, or the target cannot be used.
        ExportFailed: the export failed; what the target held before stays.
        BuildInProgress: another process writes this export.
        DamagedFile: the snapshot's files do not fit together.
    """
    config = config.with_absolute_path()
    snapshots, exports = Snapshots(root, name), Exports(root, name)
    with (
        hold_snapshot(snapshots, snapshot_id) as manifest,
        exports.lease(make_record(config).key),
        open_target(root, name, config) as target,
    ):
        result = ExportResult(**config.model_dump(), snapshot_id=manifest.snapshot_id, state="unchanged")
        if target.find_snapshot_id() == manifest.snapshot_id:
            return result
        with open_rows(snapshots, manifest) as rows, track(f"exporting to {config.format}", rows.count) as advance:
            counts = target.write(rows, advance)
        return result.model_copy(update={"state": "exported", "rows": rows.count, **counts._asdict()})


def find_unchanged(root: Root, name: str, config: ExportConfig) -> ExportResult | None:
    """Return the result of an export whose target holds the live snapshot already; None if there is work. Raises as `export_snapshot`."""
    config, live_id = config.with_absolute_path(), Snapshots(root, name).get_live_id()
    with open_target(root, name, config) as target:
        if live_id is None or target.find_snapshot_id() != live_id:
            return None
    return ExportResult(**config.model_dump(), snapshot_id=live_id, state="unchanged")


@contextmanager
def open_target(root: Root, name: str, config: ExportConfig) -> Iterator[ExportTarget]:
    """Open the target of an export. Its client is imported only now."""
    module = import_module(f"indexmill.tasks.exports.{config.format}")
    if config.format in FILE_FORMATS:
        with translate_errors(config, RuntimeError):
            yield FilesTarget(config.format, open_export_files(config.to, root), module.write_files)
        return
    if not config.is_url:
        check_no_export_files(Path(config.to))
    with module.open_target(config, config.table or name.replace("-", "_")) as target:
        yield target


def make_record(config: ExportConfig) -> ExportRecord:
    """Make the record of an export that has not run yet."""
    return ExportRecord(**config.with_absolute_path().model_dump())
