"""Export: bring one target of a pipeline up to date with the live snapshot."""

from __future__ import annotations

from prefect import task

from indexmill.configs.exports import ExportConfig
from indexmill.storage.root import Root
from indexmill.tasks.exports.run import ExportResult, export_snapshot
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("export"))
def export(root: Root, name: str, config: ExportConfig) -> ExportResult:
    """Export the live snapshot of an index to one target, unless it is there already (`export_snapshot`)."""
    return export_snapshot(root, name, config)
