"""What a report is made of, whatever its form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile


@dataclass(frozen=True)
class Rejects:
    """Items that were set aside for one reason: how many, and the first of them.

    Each has `key`, `path` (below the manifest's `base`; None for texts), `message`.
    """

    reason: str
    count: int
    examples: list[dict[str, Any]]


@dataclass(frozen=True)
class Contents:
    """figures: metrics.json. sketches: what `tasks.evaluation.sketches` and `study_space` drew. manifest: without its list of files.

    history: the figures of earlier builds, oldest first, at most a few dozen.
    """

    figures: MetricsFile
    manifest: Manifest
    description: str
    sketches: dict[str, Any]
    rejects: list[Rejects]
    history: list[MetricsFile]
