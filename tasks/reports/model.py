"""The data behind a report, independent of its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile


@dataclass(frozen=True)
class RejectGroup:
    """The rejects with one reason: how many, and the first few.

    Each example has `key`, `path` (relative to the manifest's `image_root`; None for texts) and `message`.
    """

    reason: str
    count: int
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class ReportModel:
    """Everything that a report shows.

    Args:
        build_metrics: The contents of metrics.json.
        manifest: The manifest, without its list of files.
        description: The pipeline's description.
        report_data: Example queries, labels, curves and projections, as evaluation wrote them.
        rejects: Rejected items by reason, the most frequent reason first.
        history: The metrics of earlier builds, oldest first, a few dozen at most.
    """

    build_metrics: MetricsFile
    manifest: Manifest
    description: str
    report_data: dict[str, Any]
    rejects: list[RejectGroup]
    history: list[MetricsFile]
