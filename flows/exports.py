"""Run the exports of a pipeline: after its build has published, and again by `indexmill export`."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic import ValidationError

from indexmill.configs.exports import ExportConfig, ExportFormat
from indexmill.storage.errors import DamagedFile, ExportFailed, IndexmillError, InputError
from indexmill.storage.exports import Exports
from indexmill.storage.root import Root
from indexmill.storage.stopping import Stopped
from indexmill.storage.urls import redact
from indexmill.tasks.exports.run import ExportResult, export_snapshot, make_record

RunExport = Callable[[Root, str, ExportConfig], ExportResult]


FORMATS: tuple[str, ...] = get_args(ExportFormat)


def build_export_config(export_format: str, to: str, table: str | None) -> ExportConfig:
    """Build the config of one export from the options of a command. Raises InputError when they do not fit together."""
    if export_format not in FORMATS:
        nearest = difflib.get_close_matches(export_format, FORMATS, n=1)
        raise InputError(
            "there is no such export format",
            where="--format",
            expected=f"one of: {', '.join(FORMATS)}",
            got=export_format,
            next_step=f"did you mean {nearest[0]}?" if nearest else "choose one of these formats",
        )
    try:
        return ExportConfig.model_validate({"format": export_format, "to": to, "table": table})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            "the export cannot be run",
            where=" ".join(f"--{name}" for name in first["loc"]) or "--format, --to and --table",
            expected=first["msg"].removeprefix("Value error, "),
            got=repr(first["input"]) if first["loc"] else "",  # all options together may hold a password
            next_step="correct it; docs/exports.md describes the formats and their targets",
        ) from None


def run_pipeline_exports(root: Root, name: str, configs: Iterable[ExportConfig], run: RunExport) -> list[ExportResult]:
    """Run the exports of a pipeline one after another. One that fails does not keep the others from running.

    Args:
        root: The root of the index.
        name: The index, which has a live snapshot.
        configs: The exports that the pipeline has now. Others are forgotten.
        run: Runs one export of the live snapshot.
    """
    configs, exports = [config.with_absolute_path() for config in configs], Exports(root, name)
    exports.keep_only([make_record(config) for config in configs])
    return [_run_and_record(exports, config, run) for config in configs]


def run_exports(
    root: Root, name: str, *, to: str | None, export_format: str | None, table: str | None, snapshot_id: str | None
) -> list[ExportResult]:
    """Run one export, or those of the pipeline if neither target nor format is given.

    Args:
        root: The root of the index.
        name: The index.
        to: The directory or URL.
        export_format: The format.
        table: The table or collection; None means the default.
        snapshot_id: The snapshot; None means the live one.

    Raises:
        InputError: the arguments do not fit together, or the target cannot be used.
        ExportFailed: the export failed; those of the pipeline have the state `failed` instead.
    """
    with root.hold_shared():
        if to is not None and export_format is not None:
            return [export_snapshot(root, name, build_export_config(export_format, to, table), snapshot_id)]
        if any(value is not None for value in (to, export_format, table, snapshot_id)):
            raise _build_missing_option_error(to, export_format)
        return _rerun_exports(root, name)


def _build_missing_option_error(to: str | None, export_format: str | None) -> InputError:
    """Build the error for options from which the format or the target is missing."""
    needed = {f"--format {'|'.join(FORMATS)}": export_format, "--to DIRECTORY|URL": to}
    missing = [option for option, value in needed.items() if value is None]
    names = " and ".join(option.split()[0] for option in missing)
    return InputError(
        "an export needs a format and a target",
        where=names,
        expected="--format and --to; or none of --format, --to, --table and --snapshot, to run the exports of the pipeline",
        got=f"no {names}".replace(" and ", " and no "),
        next_step=f"add {' '.join(missing)}",
    )


def _rerun_exports(root: Root, name: str) -> list[ExportResult]:
    """Run the exports that the last build of an index had."""
    configs = [ExportConfig(format=record.format, to=record.to, table=record.table) for record in Exports(root, name).list_records()]
    if not configs:
        raise InputError(
            "this index has no exports",
            where=f"index {name}",
            expected="publish.export in the pipeline's config when it was built last",
            next_step=f"indexmill export {name} --root {shlex.quote(root.location)} --format FORMAT --to TARGET",
        )
    return run_pipeline_exports(root, name, configs, export_snapshot)


def raise_if_failed(results: list[ExportResult], name: str, repeat: str, summary: dict[str, Any] | None = None) -> None:
    """Raise ExportFailed if an export failed.

    Args:
        results: How the exports of a pipeline went.
        name: The index.
        repeat: How to run them again once the cause is removed, for the message.
        summary: The summary of the build that ran them; the error has it.
    """
    failed = [result for result in results if result.state == "failed"]
    if not failed:
        return
    targets = ", ".join(f"{result.format} to {redact(result.to)}" for result in failed)
    remedy = (len(failed) == 1 and failed[0].next_step) or "correct what is wrong"
    error = ExportFailed(
        f"the snapshot is published, but {len(failed)} of {len(results)} exports failed",
        where=f"publish.export of {name}: {targets}",
        got="; ".join(result.error for result in failed),
        next_step=f"{remedy}; then {repeat}",
    )
    error.summary = summary
    raise error


def describe_repetition(root: Root, name: str) -> str:
    """Describe how to run the exports of a build again."""
    return f"build again, or run `indexmill export {name} --root {shlex.quote(root.location)}`: only the exports are repeated"


def _run_and_record(exports: Exports, config: ExportConfig, run: RunExport) -> ExportResult:
    record = make_record(config)
    before = next(known for known in exports.list_records() if known.key == record.key)
    try:
        result = run(exports.root, exports.name, config)
    except (Stopped, DamagedFile):  # the build ends, or repairs what is damaged and starts over
        raise
    except IndexmillError as error:
        text = ", ".join(part for part in (error.what, error.where, error.got) if part)
        result = ExportResult(**config.model_dump(), snapshot_id=before.snapshot_id, state="failed", error=text, next_step=error.next_step)
    after = record.model_copy(update={"snapshot_id": result.snapshot_id, "error": result.error})
    if after != before:
        exports.write_record(after)
    return result
