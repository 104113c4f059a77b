"""The figures of all builds of an index, kept when their snapshots are gone."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage.atomic import link
from indexmill.storage.metrics_file import MetricsFile
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root


def remember(root: Root, name: str, snapshot_id: str, metrics: FileRef) -> None:
    """Keep the metrics.json of a build; a later one of the same snapshot takes its place."""
    link(root.verified(metrics), _folder(root, name) / f"{snapshot_id}.json", root.scratch)


def remembered(root: Root, name: str) -> list[MetricsFile]:
    """The figures of all builds, oldest first. A file that cannot be read is left out: it is history, and nothing rests on it."""
    found = []
    for path in sorted(_folder(root, name).glob("*.json")):
        try:
            found.append(MetricsFile.model_validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return found


def _folder(root: Root, name: str) -> Path:
    return root.index(name) / "history"
