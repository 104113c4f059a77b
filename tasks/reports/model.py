"""The data behind a report, independent of its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile


@dataclass(frozen=True)
class RejectGroup:
    """Items that were set aside for one reason: how many, and the first of them.

    Each has `key`, `path` (below the manifest's `base`; None for texts), `message`.
    """

    reason: str
    count: int
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class ReportModel:
    """figures: metrics.json. sketches: what `tasks.evaluation.report_data` and `project_embedding_space` drew. manifest: without its list of files.

    history: the figures of earlier builds, oldest first, at most a few dozen.
    """

    build_metrics: MetricsFile
    manifest: Manifest
    description: str
    report_data: dict[str, Any]
    rejects: list[RejectGroup]
    history: list[MetricsFile]
